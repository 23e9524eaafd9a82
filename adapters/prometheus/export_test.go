package prometheus

import "github.com/everytick/everytick/jobs"

// Exported for the tests.
const (
	AnswerAge      = answerAge
	MonitorTimeout = monitorTimeout
)

// Outcomes are the outcomes of an attempt.
var Outcomes = outcomes

// Count returns the middleware of m.
func Count(m *Metrics) jobs.Middleware { return m.count }
