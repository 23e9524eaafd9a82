package email

import "time"

// SetSendTimeout bounds connecting and everything before the message itself.
func (s *Service) SetSendTimeout(d time.Duration) { s.sendTimeout = d }
