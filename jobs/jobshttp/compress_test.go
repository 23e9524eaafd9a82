package jobshttp_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompress_OnlyWhatMayBeCompressed(t *testing.T) {
	t.Parallel()
	h, _ := open(t)
	for name, row := range map[string]struct {
		path   string
		header []string
		want   bool
	}{
		"page":                      {"/", []string{"Accept-Encoding", "gzip, deflate, br"}, true},
		"page by its own link":      {"/", []string{"Accept-Encoding", "gzip", "Sec-Fetch-Site", "same-origin"}, true},
		"JSON":                      {"/api/jobs", []string{"Accept-Encoding", "GZIP;q=0.5"}, true},
		"style sheet":               {"/assets/style.css", []string{"Accept-Encoding", "br, gzip"}, true},
		"not asked for":             {"/", nil, false},
		"another coding":            {"/", []string{"Accept-Encoding", "br"}, false},
		"refused":                   {"/", []string{"Accept-Encoding", "gzip; q=0, br"}, false},
		"refused with decimals":     {"/", []string{"Accept-Encoding", "gzip;q=0.000"}, false},
		"small":                     {"/livez", []string{"Accept-Encoding", "gzip"}, false},
		"image":                     {"/assets/icon.svg", []string{"Accept-Encoding", "gzip"}, false},
		"requested by another site": {"/", []string{"Accept-Encoding", "gzip", "Sec-Fetch-Site", "cross-site"}, false},
		"requested by a sibling":    {"/", []string{"Accept-Encoding", "gzip", "Sec-Fetch-Site", "same-site"}, false},
	} {
		w := send(h, "GET", row.path, "", row.header...)
		require.Equal(t, http.StatusOK, w.Code, name)
		require.Equal(t, "Accept-Encoding, Sec-Fetch-Site", w.Header().Get("Vary"), name)
		require.Equal(t, row.want, w.Header().Get("Content-Encoding") == "gzip", name)
		if row.want {
			compressed := w.Body.Len()
			z, err := gzip.NewReader(w.Body)
			require.NoError(t, err, name)
			body, err := io.ReadAll(z)
			require.NoError(t, err, name)
			require.Greater(t, len(body), 2*compressed, name)
		}
	}
	w := send(h, "POST", "/job/demo.flaky/pause", "", "Accept-Encoding", "gzip")
	require.Equal(t, http.StatusSeeOther, w.Code, "without a body")
	require.Empty(t, w.Header().Get("Content-Encoding"))
}
