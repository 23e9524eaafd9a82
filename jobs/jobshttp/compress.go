package jobshttp

import (
	"cmp"
	"compress/gzip"
	"io"
	"net/http"
	"strings"
	"sync"
)

// compressor is an [http.ResponseWriter] that compresses text. The first call of Write decides.
type compressor struct {
	http.ResponseWriter
	accepted bool         // the client accepts gzip
	status   int          // to send with the first Write; 0 means none was set, -1 that it was sent
	gzip     *gzip.Writer // nil if the response is not compressed
}

// minGzip is the least number of bytes that are compressed. Fewer fit into one packet anyway.
const minGzip = 1400

var gzips = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}

// compress returns w, or a wrapper of it that compresses. A response that another site makes a browser request is not
// compressed, because its length could reveal something that the page shows to those who guess it (BREACH).
func compress(w http.ResponseWriter, r *http.Request) *compressor {
	w.Header().Add("Vary", "Accept-Encoding, Sec-Fetch-Site")
	site := r.Header.Get("Sec-Fetch-Site")
	return &compressor{ResponseWriter: w, accepted: site != "cross-site" && site != "same-site" && acceptsGzip(r)}
}

func acceptsGzip(r *http.Request) bool {
	for coding := range strings.SplitSeq(strings.Join(r.Header.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(coding, ";")
		weight := strings.ReplaceAll(strings.TrimSpace(params), " ", "")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			return strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != "" || weight == ""
		}
	}
	return false
}

// WriteHeader implements [http.ResponseWriter]. It only remembers the status, because Write may set a header.
func (c *compressor) WriteHeader(status int) { c.status = status }

// Write implements [http.ResponseWriter].
func (c *compressor) Write(body []byte) (int, error) {
	if c.status >= 0 {
		kind := c.Header().Get("Content-Type")
		text := strings.HasPrefix(kind, "text/") || strings.HasPrefix(kind, "application/json")
		if c.accepted && text && len(body) >= minGzip {
			c.Header().Set("Content-Encoding", "gzip")
			c.gzip = gzips.Get().(*gzip.Writer)
			c.gzip.Reset(c.ResponseWriter)
		}
		c.ResponseWriter.WriteHeader(cmp.Or(c.status, http.StatusOK))
		c.status = -1
	}
	if c.gzip != nil {
		return c.gzip.Write(body)
	}
	return c.ResponseWriter.Write(body)
}

// close completes the response.
func (c *compressor) close() {
	if c.status > 0 {
		c.ResponseWriter.WriteHeader(c.status)
	}
	if c.gzip != nil {
		_ = c.gzip.Close() // the client may have gone
		gzips.Put(c.gzip)
	}
}
