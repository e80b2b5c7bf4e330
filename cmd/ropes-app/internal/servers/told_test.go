package servers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// tell sends JSON and reads what comes back into out.
func tell(t *testing.T, method, url string, in, out any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(nil).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s", method, url, resp.Status)
	}
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRelay(t *testing.T) {
	target, _ := start(t, Serve, 2, "--listen", anyPort, "--tcp", anyPort)
	relay, _ := start(t, Relay, 1, "--listen", anyPort)
	base := "http://" + relay["http"]
	var got outcome
	tell(t, "POST", base+"/fetch", order{URL: "http://x.example/a?b", Method: "PUT", Host: "y.example", Address: target["http"], Body: []byte("hi"), Headers: http.Header{"x-a": {"1"}}}, &got)
	if got.Status != 200 || !strings.Contains(string(got.Body), `"host": "y.example"`) || !strings.Contains(string(got.Body), `"X-A"`) || !strings.Contains(string(got.Body), `"body": "hi"`) {
		t.Errorf("%+v %s", got, got.Body)
	}
	got = outcome{}
	tell(t, "POST", base+"/fetch", order{URL: "http://" + target["http"] + "/x.Y/Z", Method: "POST", HTTP2: true, Body: []byte("\x00\x00\x00\x00\x01a"), Headers: http.Header{
		"content-type": {"application/grpc"}, "te": {"trailers"}, "x-grpc-status": {"5"},
	}}, &got)
	if got.Proto != "HTTP/2.0" || got.Trailers.Get("Grpc-Status") != "5" || string(got.Body) != "\x00\x00\x00\x00\x01a" {
		t.Errorf("gRPC: %+v %q", got, got.Body)
	}
	got = outcome{}
	if tell(t, "POST", base+"/fetch", order{URL: "http://127.0.0.1:1/", Method: "GET"}, &got); got.Err == "" {
		t.Errorf("nobody is there: %+v", got)
	}
	var raw rawOutcome
	if tell(t, "POST", base+"/raw", rawOrder{Address: target["tcp"], Send: []byte("echo"), Want: 4}, &raw); string(raw.Received) != "echo" {
		t.Errorf("raw: %+v", raw)
	}
	body, err := json.Marshal(loadOrder{Orders: []order{{URL: "http://" + target["http"] + "/", Method: "GET"}, {URL: "http://" + target["http"] + "/status/500", Method: "GET"}}, Rate: 500, Count: 20})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(nil).Post(base+"/load", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var last loadOutcome
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
			t.Fatal(err)
		}
	}
	if !last.Finished || last.Done != 20 || last.Failed != 10 || !strings.Contains(last.Failures[0], "status 500") {
		t.Errorf("load: %+v", last)
	}
}

func TestScript(t *testing.T) {
	h, err := serveHandler(&applet.Call{}, "")
	if err != nil {
		t.Fatal(err)
	}
	sc := &script{next: h}
	served, controlled := httptest.NewServer(sc), httptest.NewServer(sc.control())
	defer served.Close()
	defer controlled.Close()
	app, control := served.Listener.Addr().String(), controlled.Listener.Addr().String()
	tell(t, "PUT", "http://"+control+"/script", []rule{
		{Contains: "GET /once", Times: 1, Status: 503, Headers: map[string]string{"x-y": "z"}, Body: []byte("busy")}, {Contains: "needle", Status: 418}, {Contains: "/cut", Reset: true},
	}, nil)
	for _, tc := range []struct {
		method, path, body string
		code               int
		part               string
	}{
		{"GET", "/once", "", 503, "busy"},
		{"GET", "/once", "", 200, `"path": "/once"`},
		{"POST", "/", "hay needle hay", 418, ""},
		{"POST", "/", "hay", 200, `"body": "hay"`},
	} {
		if code, body := do(t, client(nil), tc.method, "http://"+app+tc.path, tc.body); code != tc.code || !strings.Contains(body, tc.part) {
			t.Errorf("%s %s: %d %s", tc.method, tc.path, code, body)
		}
	}
	if resp, err := client(nil).Get("http://" + app + "/cut"); err == nil {
		resp.Body.Close()
		t.Errorf("a reset gives %s", resp.Status)
	}
	var heard []record
	tell(t, "GET", "http://"+control+"/script", nil, &heard)
	if len(heard) < 5 || heard[2].Method != http.MethodPost || string(heard[2].Body) != "hay needle hay" {
		t.Errorf("heard %+v", heard)
	}
	tell(t, "DELETE", "http://"+control+"/script", nil, nil)
	if code, _ := do(t, client(nil), "POST", "http://"+app+"/", "needle"); code != 200 {
		t.Errorf("after the script: %d", code)
	}
}
