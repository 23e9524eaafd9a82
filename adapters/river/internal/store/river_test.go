package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/adapters/river/internal/store"
)

func TestIsNewer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"v0.51.2", "v0.51.2", false},
		{"v0.51.3", "v0.51.2", true},
		{"v0.52.0", "v0.51.2", true},
		{"v1.0.0", "v0.51.2", true},
		{"v0.100.0", "v0.51.2", true},
		{"v0.51.10", "v0.51.2", true},
		{"v0.51.1", "v0.51.2", false},
		{"v0.9.9", "v0.51.2", false},
		{"(devel)", "v0.51.2", false},
		{"", "v0.51.2", false},
	} {
		require.Equal(t, test.want, store.IsNewer(test.a, test.b), "%s after %s", test.a, test.b)
	}
}
