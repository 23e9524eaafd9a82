package equal_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs/internal/equal"
)

func TestJSON(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		rule string
		a, b string
		want bool
	}{
		{"space and order", `{"a": 1, "b": [true, null]}`, `{"b":[true,null],"a":1}`, true},
		{"numbers by value", `[1e2, 0.10]`, `[100, 0.1]`, true},
		{"numbers to the last digit", `[12345678901234567890]`, `[12345678901234567891]`, false},
		{"a string is not a number", `["1"]`, `[1]`, false},
		{"the order of a list", `[1, 2]`, `[2, 1]`, false},
		{"invalid JSON equals nothing", `{`, `{`, false},
	} {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, equal.JSON([]byte(test.a), []byte(test.b)))
		})
	}
}
