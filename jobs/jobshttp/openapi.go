package jobshttp

import (
	_ "embed"
	"encoding/json"
	"net/http"
	"net/url"
)

// description is the OpenAPI 3.1 description of the API.
//
//go:embed openapi.json
var description []byte

func (h *handler) apiDescription(*http.Request, url.Values) (any, error) {
	return json.RawMessage(description), nil
}
