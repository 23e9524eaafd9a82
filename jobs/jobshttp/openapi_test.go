package jobshttp_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/everytick/everytick/jobs"
	"github.com/everytick/everytick/jobs/jobshttp"
)

// openAPI is a description as a client finds it.
type openAPI struct {
	t   testing.TB
	doc map[string]any
}

func readOpenAPI(t testing.TB, h http.Handler) *openAPI {
	w := send(h, "GET", "/api/openapi.json", "")
	require.Equal(t, http.StatusOK, w.Code)
	d := &openAPI{t: t}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &d.doc))
	return d
}

// resolve returns the object that v refers to, or v itself.
func (d *openAPI) resolve(v any) map[string]any {
	obj, ok := v.(map[string]any)
	require.True(d.t, ok, "%v is not an object", v)
	ref, ok := obj["$ref"].(string)
	if !ok {
		return obj
	}
	at := any(d.doc)
	for _, key := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		at = at.(map[string]any)[key]
		require.NotNil(d.t, at, ref)
	}
	return d.resolve(at)
}

// operations calls f with each operation.
func (d *openAPI) operations(f func(method, path string, op map[string]any)) {
	paths := d.doc["paths"].(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		for method, op := range paths[path].(map[string]any) {
			f(strings.ToUpper(method), path, op.(map[string]any))
		}
	}
}

// conforms reports why v, decoded from JSON, does not match a schema. It is stricter than JSON Schema: an object may
// only have properties that the schema names, and a keyword that it does not know is an error.
func (d *openAPI) conforms(schema any, v any) error {
	s := d.resolve(schema)
	for keyword := range s {
		if !slices.Contains([]string{
			"type", "description", "properties", "required", "items", "enum", "format", "minimum", "maximum", "default",
			"additionalProperties", "minLength", "maxLength", "maxProperties",
		}, keyword) {
			return fmt.Errorf("unknown keyword %q", keyword)
		}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%v is none of %v", v, enum)
	}
	switch s["type"] {
	case "string":
		text, ok := v.(string)
		if !ok {
			return fmt.Errorf("%v is not a string", v)
		}
		if s["format"] == "date-time" {
			t, err := time.Parse(time.RFC3339, text)
			if err != nil || t.IsZero() || t.Location() != time.UTC {
				return fmt.Errorf("%q is not a time in UTC: %w", text, err)
			}
		}
	case "integer", "number":
		n, ok := v.(float64)
		if !ok || s["type"] == "integer" && n != float64(int(n)) {
			return fmt.Errorf("%v is not a number of type %s", v, s["type"])
		}
		if least, ok := s["minimum"].(float64); ok && n < least {
			return fmt.Errorf("%v is less than %v", n, least)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%v is not a boolean", v)
		}
	case "array":
		all, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%v is not an array", v)
		}
		for i, item := range all {
			if err := d.conforms(s["items"], item); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
	case "object":
		obj, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("%v is not an object", v)
		}
		properties, closed := s["properties"].(map[string]any)
		for key, value := range obj {
			schema, ok := properties[key]
			if !ok {
				schema, ok = s["additionalProperties"]
			}
			switch {
			case ok:
				if err := d.conforms(schema, value); err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
			case closed:
				return fmt.Errorf("%q is not described", key)
			}
		}
		required, _ := s["required"].([]any)
		for _, key := range required {
			if _, ok := obj[key.(string)]; !ok {
				return fmt.Errorf("%q is missing", key)
			}
		}
	case nil: // any JSON; it says so
		if text, _ := s["description"].(string); !strings.Contains(text, "any JSON") {
			return errors.New("no type")
		}
	default:
		return fmt.Errorf("unknown type %v", s["type"])
	}
	return nil
}

// requireAnswer requires that the description of an operation has the answer.
func (d *openAPI) requireAnswer(op map[string]any, w *httptest.ResponseRecorder, about string) {
	about = fmt.Sprintf("%s: %d: %s", about, w.Code, w.Body)
	described, ok := op["responses"].(map[string]any)[fmt.Sprint(w.Code)]
	require.True(d.t, ok, "undocumented status: %s", about)
	response := d.resolve(described)
	headers, _ := response["headers"].(map[string]any)
	for name := range headers {
		require.NotEmpty(d.t, w.Header().Get(name), "header %s: %s", name, about)
	}
	for _, name := range []string{"Location", "ETag", "WWW-Authenticate"} {
		require.Equal(d.t, headers[name] != nil, w.Header().Get(name) != "", "header %s: %s", name, about)
	}
	content, ok := response["content"].(map[string]any)
	if !ok {
		require.Empty(d.t, w.Body.Bytes(), about)
		return
	}
	require.Equal(d.t, "application/json", w.Header().Get("Content-Type"), about)
	var body any
	require.NoError(d.t, json.Unmarshal(w.Body.Bytes(), &body), about)
	require.NoError(d.t, d.conforms(content["application/json"].(map[string]any)["schema"], body), about)
}

// rich returns a scheduler whose answers have every field.
func rich(t testing.TB) *full {
	s := newFake(time.Now().UTC())
	s.set(func() {
		s.health.Reasons = []jobs.Reason{{Job: "email.stuck", Text: "is overdue"}, {Text: "no leader"}}
		s.health.Totals[jobs.StateRunning] = jobs.Count{N: 500, AtLeast: true}
		first := &s.runs["demo.flaky"][0]
		first.Process, first.EndedAt, first.CancelledAt = "one", time.Now().UTC(), time.Now().UTC()
		s.statuses[0].Options = jobs.JobOptions{
			MaxAttempts: 3, RetryDelay: 5 * time.Second, Timeout: 5 * time.Minute, Priority: 1, Concurrency: 2, CatchUp: jobs.CatchUpAll,
			Overlap: jobs.OverlapSkip, StartWithin: time.Hour, Transactional: true,
		}
		for i := range 3 {
			first.Errors = append(first.Errors, jobs.RunError{Attempt: i + 1, At: time.Now().UTC(), Text: "no such host"})
		}
	})
	return s
}

func TestOpenAPI_DescribesEveryRouteAndAnswer(t *testing.T) {
	t.Parallel()
	allow := &jobshttp.Options{Authorize: everybody, ShowData: true}
	d := readOpenAPI(t, jobshttp.New(rich(t), allow))

	described := map[string]bool{}
	d.operations(func(method, path string, _ map[string]any) { described[method+" "+path] = true })
	for _, route := range jobshttp.Routes() {
		pattern := route[1]
		if strings.HasPrefix(pattern, "/api/") || strings.HasSuffix(pattern, "z") {
			require.True(t, described[route[0]+" "+pattern], "%v is not described", route)
			delete(described, route[0]+" "+pattern)
		}
	}
	require.Empty(t, described, "described, but no route")

	down := func() *full {
		s := rich(t)
		s.set(func() { s.down = errors.New("no route to host") })
		return s
	}
	fallen := jobshttp.New(down(), allow)
	refusing := func(err error) http.Handler {
		return jobshttp.New(rich(t), &jobshttp.Options{Authorize: func(*http.Request, jobshttp.Action, string) error { return err }})
	}
	// Each way to send a request, and whether its answer has the status that it is meant to cause.
	ways := []struct {
		name   string
		status int
		send   func(method, path string) *httptest.ResponseRecorder
	}{
		{"as intended", 0, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, path, "")
		}},
		{"with very long errors", 0, func(method, path string) *httptest.ResponseRecorder {
			s := rich(t)
			s.set(func() { s.runs["demo.flaky"][0].Errors[1].Text = strings.Repeat("x", jobshttp.MaxErrors) })
			return send(jobshttp.New(s, allow), method, path, "")
		}},
		{"again with the ETag", 304, func(method, path string) *httptest.ResponseRecorder {
			h, _ := open(t)
			return send(h, method, path, "", "If-None-Match", cmpTag(send(h, method, path, "").Header().Get("ETag")))
		}},
		{"with an unknown parameter", 400, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, path+query(path)+"nonsense=1", "")
		}},
		{"with a body that is not an object", 400, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, path, "[1]")
		}},
		{"without a login", 401, func(method, path string) *httptest.ResponseRecorder {
			return send(refusing(fmt.Errorf("no session: %w", jobshttp.ErrUnauthenticated)), method, path, "")
		}},
		{"without permission", 403, func(method, path string) *httptest.ResponseRecorder {
			return send(refusing(errors.New("not you")), method, path, "")
		}},
		{"from another site", 403, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, path, "", "Sec-Fetch-Site", "cross-site")
		}},
		{"about an unknown job", 404, func(method, path string) *httptest.ResponseRecorder {
			path = strings.Replace(path, "demo.flaky", "no.such", 1)
			if strings.HasPrefix(path, "/api/runs") && !strings.Contains(path, "12") {
				path += query(path) + "name=no.such"
			}
			return send(jobshttp.New(rich(t), allow), method, path, "")
		}},
		{"about an unknown run", 404, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, strings.Replace(path, "12", "99", 1), "")
		}},
		{"about a completed run", 409, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, strings.Replace(path, "12", "10", 1), "")
		}},
		{"with a large body", 413, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, path, strings.Repeat("x", jobshttp.MaxBody+1))
		}},
		{"with an idempotency key of other data", 422, func(method, path string) *httptest.ResponseRecorder {
			h := jobshttp.New(rich(t), allow)
			_ = send(h, method, path, `{"n": 1}`, "Idempotency-Key", "key")
			return send(h, method, path, "", "Idempotency-Key", "key")
		}},
		{"with a form", 415, func(method, path string) *httptest.ResponseRecorder {
			return send(jobshttp.New(rich(t), allow), method, path, "a=b", "Content-Type", "application/x-www-form-urlencoded")
		}},
		{"without roles", 501, func(method, path string) *httptest.ResponseRecorder {
			s := rich(t)
			return send(jobshttp.New(&core{statuses: s.statuses, health: s.health}, allow), method, path, "")
		}},
		{"while the database is down", 503, func(method, path string) *httptest.ResponseRecorder {
			return send(fallen, method, path, "")
		}},
		{"that fails halfway", 503, func(method, path string) *httptest.ResponseRecorder {
			s := rich(t)
			s.set(func() { s.halfway = errors.New("connection reset") })
			return send(jobshttp.New(s, allow), method, path, "")
		}},
	}
	d.operations(func(method, pattern string, op map[string]any) {
		seen := map[string]bool{}
		for _, way := range ways {
			w := way.send(method, path(pattern, "demo.flaky", "12"))
			about := method + " " + pattern + " " + way.name
			d.requireAnswer(op, w, about)
			documented := op["responses"].(map[string]any)[fmt.Sprint(way.status)] != nil
			if documented && slices.Contains([]int{304, 401, 413, 415, 501, 503}, way.status) && way.name != "that fails halfway" {
				require.Equal(t, way.status, w.Code, about)
			}
			seen[fmt.Sprint(w.Code)] = true
		}
		require.ElementsMatch(t, slices.Collect(maps.Keys(op["responses"].(map[string]any))), slices.Collect(maps.Keys(seen)),
			"%s %s: documented, and seen", method, pattern)
	})
}

// cmpTag returns a list with tag in it, as a proxy could send it.
func cmpTag(tag string) string { return `"other", ` + tag }

// query returns what precedes another parameter of a URL.
func query(path string) string {
	if strings.Contains(path, "?") {
		return "&"
	}
	return "?"
}

// A route takes exactly the parameters that are described.
func TestOpenAPI_DescribesEveryParameter(t *testing.T) {
	t.Parallel()
	examples := map[string]string{
		"runs": "5", "limit": "5", "after": "1", "delay": "1.5", "at": "2026-11-30T08:00:00%2B01:00", "priority": "4", "unique": "key",
		"name": "demo.flaky", "state": "failed", "since": "2026-11-30T08:00:00Z", "until": "2026-11-30T09:00:00Z", "dry_run": "true",
		"span": "day",
	}
	h, _ := open(t)
	d := readOpenAPI(t, h)
	d.operations(func(method, pattern string, op map[string]any) {
		if !strings.HasPrefix(pattern, "/api/") {
			return
		}
		described := map[string]bool{}
		params, _ := op["parameters"].([]any)
		for _, p := range params {
			switch p := d.resolve(p); p["in"] {
			case "query":
				described[p["name"].(string)] = true
			case "path":
				require.Contains(t, pattern, "{"+p["name"].(string)+"}")
			}
		}
		require.Equal(t, strings.Count(pattern, "{"), strings.Count(fmt.Sprint(resolveAll(d, params)), "in:path"), pattern)
		at, filter, _ := strings.Cut(path(pattern, "demo.flaky", "12"), "?")
		for key, value := range examples {
			target := at + "?" + key + "=" + value
			if key == "dry_run" {
				target += "&" + filter
			}
			w := send(h, method, target, "")
			if described[key] {
				require.Less(t, w.Code, 300, "%s %s: %s", method, target, w.Body)
			} else {
				require.Equal(t, http.StatusBadRequest, w.Code, "%s %s", method, target)
				require.Contains(t, w.Body.String(), `"code": "unknown_parameter"`)
			}
			delete(described, key)
		}
		require.Empty(t, described, "%s: parameters without an example", pattern)
	})
}

func resolveAll(d *openAPI, all []any) (resolved []map[string]any) {
	for _, v := range all {
		resolved = append(resolved, d.resolve(v))
	}
	return resolved
}

// Every code in the source is described, and no other.
func TestOpenAPI_ListsTheCodesOfErrors(t *testing.T) {
	t.Parallel()
	h, _ := open(t)
	d := readOpenAPI(t, h)
	var listed []string
	errorSchema := d.resolve(d.resolve(map[string]any{"$ref": "#/components/schemas/Error"})["properties"].(map[string]any)["error"])
	for _, code := range errorSchema["properties"].(map[string]any)["code"].(map[string]any)["enum"].([]any) {
		listed = append(listed, code.(string))
	}
	var used []string
	for _, file := range []string{"api.go", "auth.go", "fault.go", "find.go", "handler.go"} {
		for _, m := range regexp.MustCompile(`(?:code: |http\.Status\w+: +|http\.Status\w+, )"([a-z_]+)"`).FindAllStringSubmatch(readFile(t, file), -1) {
			used = append(used, m[1])
		}
	}
	slices.Sort(used)
	used = slices.Compact(used)
	require.Equal(t, listed, used)
	reference := readFile(t, "../../docs/reference.md")
	for _, code := range used {
		require.Contains(t, reference, "`"+code+"`", "%s is not in docs/reference.md", code)
	}
}

// Clients that generate code from a description need these.
func TestOpenAPI_IsComplete(t *testing.T) {
	t.Parallel()
	h, _ := open(t)
	d := readOpenAPI(t, h)
	require.Equal(t, "3.1.0", d.doc["openapi"])
	ids := map[any]bool{}
	d.operations(func(method, path string, op map[string]any) {
		require.False(t, ids[op["operationId"]], "%s %s: %v", method, path, op["operationId"])
		ids[op["operationId"]] = true
		require.NotEmpty(t, op["summary"], path)
	})
	at, err := url.Parse("https://app.example.com/admin/jobs/api/openapi.json")
	require.NoError(t, err)
	root, err := at.Parse(d.doc["servers"].([]any)[0].(map[string]any)["url"].(string))
	require.NoError(t, err)
	require.Equal(t, "https://app.example.com/admin/jobs/", root.String(), "where the paths begin")
	text := readFile(t, "openapi.json")
	components := d.doc["components"].(map[string]any)
	for _, kind := range []string{"schemas", "parameters", "responses"} {
		for name := range components[kind].(map[string]any) {
			require.Contains(t, text, `"#/components/`+kind+"/"+name+`"`, "%s is not used", name)
		}
	}
	for _, m := range regexp.MustCompile(`"\$ref": ("[^"]+")`).FindAllStringSubmatch(text, -1) {
		var ref string
		require.NoError(t, json.Unmarshal([]byte(m[1]), &ref))
		d.resolve(map[string]any{"$ref": ref})
	}
}
