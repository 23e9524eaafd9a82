package main

import (
	"testing"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobstest"
	"github.com/everytick/everytick/modules/email"
)

func TestRegister_HasNoFindings(t *testing.T) {
	t.Parallel()
	jobstest.Lint(t, func(r jobs.Registrar) error { return register(r, &email.Service{}) },
		// One run may send for minutes while others begin; a message is claimed by one of them.
		"overlap email.process-queue",
		// It is meant to block its schedule, to show that on the page.
		"overlap demo.import", "retries demo.import",
	)
}
