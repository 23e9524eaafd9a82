package prometheus

import "github.com/everytick/everytick/jobs"

// What the tests look at from inside.
const (
	AnswerAge      = answerAge
	MonitorTimeout = monitorTimeout
)

// Outcomes are those of an attempt.
var Outcomes = outcomes

// Count returns the middleware of m.
func Count(m *Metrics) jobs.Middleware { return m.count }
