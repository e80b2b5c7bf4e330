package servers

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// maxEcho bounds in bytes how much of a request's body is told back.
const maxEcho = 64 << 10

// echo tells the client what it has sent.
type echo struct {
	name, message, hostname string
}

// heard is what echo answers.
type heard struct {
	Beyond   string      `json:"beyond,omitempty"`
	Message  string      `json:"message,omitempty"`
	Method   string      `json:"method"`
	Host     string      `json:"host"`
	Path     string      `json:"path"`
	Query    string      `json:"query,omitempty"`
	Proto    string      `json:"proto"`
	Headers  http.Header `json:"headers"`
	Body     string      `json:"body,omitempty"`
	TLS      *heardTLS   `json:"tls,omitempty"`
	Remote   string      `json:"remote"`
	Hostname string      `json:"hostname"`
}

type heardTLS struct {
	Version    string `json:"version"`
	ServerName string `json:"serverName,omitempty"`
	Client     string `json:"clientSubject,omitempty"`
}

func (e echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxEcho))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h := heard{
		Message: e.message, Method: r.Method, Host: r.Host, Path: r.URL.Path, Query: r.URL.RawQuery, Proto: r.Proto,
		Headers: r.Header, Body: string(body), Remote: r.RemoteAddr, Hostname: e.hostname,
	}
	if e.name == "outside" {
		h.Beyond = "the mesh"
	}
	if r.TLS != nil {
		h.TLS = &heardTLS{Version: tls.VersionName(r.TLS.Version), ServerName: r.TLS.ServerName}
		if certs := r.TLS.PeerCertificates; len(certs) > 0 {
			h.TLS.Client = certs[0].Subject.String()
		}
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(h) // where it fails, nobody is left to tell
}

// echoTCP returns what it is sent until the client is done.
func echoTCP(greeting string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		defer c.Close()
		if _, err := io.WriteString(c, greeting); err != nil {
			return
		}
		_, _ = io.Copy(c, c) // either side may hang up
	}
}

// serveHandler is what serve answers. dir may be empty: no files then.
func serveHandler(call *applet.Call, dir string) (http.Handler, error) {
	name := hostname(call)("HOSTNAME")
	mux := http.NewServeMux()
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, s) }
	}
	mux.Handle("/", echo{name: "serve", hostname: name})
	mux.HandleFunc("/hostname", text(name))
	mux.HandleFunc("/health", text("ok"))
	mux.HandleFunc("/version", text(call.Getenv("SERVICE_VERSION")))
	mux.HandleFunc("/status/{code}", serveStatus)
	mux.HandleFunc("/delay/{duration}", serveDelay)
	all := grpcEcho{mux, name}
	if dir == "" {
		mux.HandleFunc("/file/", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no files here: serve was started without --dir", http.StatusNotFound)
		})
		return all, nil
	}
	root, err := os.OpenRoot(call.Path(dir)) // links out of it are not followed
	if err != nil {
		return nil, err
	}
	mux.Handle("/file/", http.StripPrefix("/file/", files{root}))
	return all, nil
}

func serveStatus(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "not a status from 200 to 599", http.StatusBadRequest)
		return
	}
	w.WriteHeader(code)
	if code != http.StatusNoContent && code != http.StatusNotModified {
		fmt.Fprintln(w, code, http.StatusText(code))
	}
}

func serveDelay(w http.ResponseWriter, r *http.Request) {
	d, err := time.ParseDuration(r.PathValue("duration"))
	if err != nil {
		var seconds float64
		if seconds, err = strconv.ParseFloat(r.PathValue("duration"), 64); err == nil {
			d = time.Duration(seconds * float64(time.Second))
		}
	}
	if err != nil || d < 0 {
		http.Error(w, "not a duration such as 2s or 2", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		fmt.Fprintln(w, "after", d)
	case <-r.Context().Done():
	}
}

// files reads, writes and removes files below a directory.
type files struct{ root *os.Root }

func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Clean(r.URL.Path)
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		err = f.get(w, r, name)
	case http.MethodPut:
		err = f.put(r, name)
		if err == nil {
			w.WriteHeader(http.StatusCreated)
		}
	case http.MethodDelete:
		err = f.root.Remove(name)
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
		http.Error(w, "only GET, HEAD, PUT and DELETE", http.StatusMethodNotAllowed)
		return
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, fs.ErrPermission):
		http.Error(w, err.Error(), http.StatusForbidden)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (f files) get(w http.ResponseWriter, r *http.Request, name string) error {
	file, err := f.root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		http.ServeContent(w, r, fi.Name(), fi.ModTime(), file)
		return nil
	}
	names, err := file.Readdirnames(-1)
	for _, n := range names {
		fmt.Fprintln(w, n)
	}
	return err
}

// put writes the file through to the disk before it answers.
func (f files) put(r *http.Request, name string) error {
	if d := filepath.Dir(name); d != "." {
		if err := f.root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	file, err := f.root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, r.Body)
	return errors.Join(err, file.Sync(), file.Close())
}
