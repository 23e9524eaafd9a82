package jobstest

import (
	"time"

	"github.com/everytick/everytick/jobs"
)

// FindingsAt is Findings at another time.
func FindingsAt(register func(jobs.Registrar) error, now time.Time) ([]Finding, error) {
	l := &linted{}
	err := register(l)
	return l.findings(now), err
}
