package email

import "time"

// SetSendTimeout bounds what is said before a mail.
func (s *Service) SetSendTimeout(d time.Duration) { s.sendTimeout = d }
