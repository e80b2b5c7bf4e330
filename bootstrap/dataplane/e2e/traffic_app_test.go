package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// heard is what the application of this pod was asked, for requests whose answers nobody sees.
var heard record

type record struct {
	mu   sync.Mutex
	list []echoed
}

func (r *record) note(q *http.Request, body string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, echoed{Path: q.RequestURI, Authority: q.Host, Method: q.Method, Headers: q.Header.Clone(), Body: body, Proto: q.Proto})
}

func (r *record) count(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.list {
		if e.Path == path {
			n++
		}
	}
	return n
}

func (r *record) tell(w io.Writer, path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []echoed{}
	for _, e := range r.list {
		if e.Path == path {
			out = append(out, e)
		}
	}
	_ = json.NewEncoder(w).Encode(out)
}

// forwardProxy takes CONNECT and POST for tunnels, wherever to, and leads them to the greeting port of its own pod.
func forwardProxy(w http.ResponseWriter, r *http.Request) {
	heard.note(&http.Request{RequestURI: "/proxied", Host: r.Host, Method: r.Method, Header: r.Header, Proto: r.Proto}, "")
	up, err := net.Dial("tcp", "127.0.0.1:9000")
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = up.Close() }()
	if r.Method == http.MethodConnect {
		c, bw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = bw.WriteString("HTTP/1.1 200 OK\r\n\r\n")
		_ = bw.Flush()
		go func() {
			_, _ = io.Copy(up, bw)
			_ = up.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(c, up)
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex()
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
	go func() {
		_, _ = io.Copy(up, r.Body)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(w, up)
}

// streams answers client streams with a count and echoes streams in both directions.
type streams struct {
	testpb.UnimplementedTestServiceServer
}

func (streams) StreamingInputCall(st testpb.TestService_StreamingInputCallServer) error {
	n := 0
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return st.SendAndClose(&testpb.StreamingInputCallResponse{AggregatedPayloadSize: int32(n)})
		}
		if err != nil {
			return err
		}
		n += len(m.GetPayload().GetBody())
	}
}

func (streams) FullDuplexCall(st testpb.TestService_FullDuplexCallServer) error {
	st.SetTrailer(metadata.Pairs("x-end", "yes"))
	for {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetResponseStatus().GetCode() != 0 {
			return status.Error(5, m.GetResponseStatus().GetMessage())
		}
		if err := st.Send(&testpb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

// sendStreams makes a client stream and a stream in both directions, message by message.
func sendStreams(o order) outcome {
	cc, err := grpc.NewClient("passthrough:///"+o.URL, grpc.WithAuthority(o.Host), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return outcome{Err: err.Error()}
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := testpb.NewTestServiceClient(cc)
	in, err := c.StreamingInputCall(ctx, grpc.UseCompressor(gzip.Name))
	if err != nil {
		return outcome{Err: err.Error()}
	}
	for range 10 {
		if err := in.Send(&testpb.StreamingInputCallRequest{Payload: &testpb.Payload{Body: make([]byte, 50_000)}}); err != nil {
			return outcome{Err: "client stream: " + err.Error()}
		}
	}
	sum, err := in.CloseAndRecv()
	if err != nil {
		return outcome{Err: "client stream: " + err.Error()}
	}
	both, err := c.FullDuplexCall(ctx)
	if err != nil {
		return outcome{Err: err.Error()}
	}
	for i := range 5 {
		if err := both.Send(&testpb.StreamingOutputCallRequest{Payload: &testpb.Payload{Body: []byte{byte('a' + i)}}}); err != nil {
			return outcome{Err: "both ways: " + err.Error()}
		}
		m, err := both.Recv()
		if err != nil || string(m.GetPayload().GetBody()) != string(rune('a'+i)) {
			return outcome{Err: fmt.Sprintf("both ways: %v %v", m, err)}
		}
	}
	_ = both.CloseSend()
	_, err = both.Recv()
	end := both.Trailer().Get("x-end")
	early, e2 := c.FullDuplexCall(ctx)
	if e2 != nil {
		return outcome{Err: e2.Error()}
	}
	_ = early.Send(&testpb.StreamingOutputCallRequest{ResponseStatus: &testpb.EchoStatus{Code: 5, Message: "no 100%"}})
	_, e2 = early.Recv()
	return outcome{Status: http.StatusOK, Body: fmt.Sprintf("%d %v %v %s %s", sum.GetAggregatedPayloadSize(), err, end, status.Code(e2), status.Convert(e2).Message())}
}
