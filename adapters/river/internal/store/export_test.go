package store

// SQL returns the statement with the given name.
func (s *Store) SQL(name string) string { return s.sql(name) }
