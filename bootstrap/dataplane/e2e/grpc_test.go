package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// health answers with metadata and trailers; an unknown service is an error, a watch is a stream.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (health) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-pod", os.Getenv("POD")))
	if r.GetService() != "" {
		return nil, status.Error(codes.NotFound, "no such service")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (health) Watch(_ *grpc_health_v1.HealthCheckRequest, st grpc_health_v1.Health_WatchServer) error {
	for range 3 {
		if err := st.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func serveGRPC(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	g := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(g, health{})
	testpb.RegisterTestServiceServer(g, streams{})
	_ = g.Serve(ln)
}

// sendGRPC calls the health service: a unary call, one that fails, and a stream. Body tells what came back.
func sendGRPC(o order) outcome {
	cc, err := grpc.NewClient("passthrough:///"+o.URL, grpc.WithAuthority(o.Host), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return outcome{Err: err.Error()}
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c := grpc_health_v1.NewHealthClient(cc)
	var trailer metadata.MD
	r, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Trailer(&trailer))
	if err != nil {
		return outcome{Err: "check: " + err.Error()}
	}
	_, nerr := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "x"})
	st, err := c.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return outcome{Err: "watch: " + err.Error()}
	}
	n := 0
	for {
		if _, err = st.Recv(); err != nil {
			break
		}
		n++
	}
	if !errors.Is(err, io.EOF) {
		return outcome{Err: "watch: " + err.Error()}
	}
	return outcome{Status: http.StatusOK, Body: fmt.Sprintf("%s %s %s %d", r.GetStatus(), trailer.Get("x-pod"), status.Code(nerr), n)}
}
