package servers

import (
	"io"
	"net/http"
	"strings"
)

// grpcEcho answers gRPC requests on any path: it returns every message as it comes and ends with the status that the
// header x-grpc-status asks for (default 0), in the trailers. Other requests go to next.
type grpcEcho struct {
	next     http.Handler
	hostname string
}

func (g grpcEcho) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		g.next.ServeHTTP(w, r)
		return
	}
	status := r.Header.Get("X-Grpc-Status")
	if status == "" {
		status = "0"
	}
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("X-Hostname", g.hostname)
	rc := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if rc.Flush() != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil || rc.Flush() != nil {
				return
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	h.Set(http.TrailerPrefix+"Grpc-Status", status)
	h.Set(http.TrailerPrefix+"Grpc-Message", "echo")
}
