package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/clustertest"
)

const client = `
apiVersion: v1
kind: Pod
metadata: {name: client-%s, namespace: client, labels: {app: client}}
spec: {containers: [{name: client}, {name: istio-proxy}]}
status: {phase: Running, containerStatuses: [{name: client, state: {%s}}]}`

// program is an executor that plays one program.
type program func(command []string, stdin io.Reader, stdout, stderr io.Writer) error

func (p program) Exec(_ context.Context, _ target, command []string, stdin io.Reader, stdout, stderr io.Writer) error {
	return p(command, stdin, stdout, stderr)
}

// says plays a program that prints and ends.
func says(stdout, stderr string, status int) program {
	return func(_ []string, _ io.Reader, o, e io.Writer) error {
		fmt.Fprint(o, stdout)
		fmt.Fprint(e, stderr)
		if status != 0 {
			return exitError(status)
		}
		return nil
	}
}

func fromClient(p checks.Probe) checks.Probe {
	p.From = checks.Place{Namespace: "client", Selector: "app=client"}
	return p
}

func prober(t *testing.T, exec executor) *Prober {
	t.Helper()
	c, _ := clustertest.New(t, clustertest.Object(t, fmt.Sprintf(client, "b", "running: {}")), clustertest.Object(t, fmt.Sprintf(client, "a", "waiting: {reason: ImagePullBackOff}")))
	return &Prober{cluster: c, exec: exec}
}

func TestPodProbes(t *testing.T) {
	get := checks.Probe{HTTP: &checks.HTTPProbe{URL: "http://web/"}}
	dig := checks.Probe{DNS: &checks.DNSProbe{Name: "web"}}
	open := checks.Probe{TCP: &checks.TCPProbe{Address: "web:80"}}
	run := checks.Probe{Exec: &checks.ExecProbe{Command: []string{"cat", "/f"}}}
	for name, tt := range map[string]struct {
		probe checks.Probe
		exec  program
		want  checks.Result // the keys that matter
	}{
		"http": {
			get, says("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nX-One: a\r\nx-one: b\r\n\r\n{\"n\": 1}", "", 0),
			checks.Result{"sent": true, "ok": true, "status": int64(201), "body": `{"n": 1}`, "headers": map[string]any{"x-one": "a, b"}, "json": map[string]any{"n": 1.0}, "error": "", "errorKind": ""},
		},
		"http/2 without reason": {get, says("HTTP/2 403 \r\n\r\nRBAC: access denied", "", 0), checks.Result{"ok": true, "status": int64(403), "body": "RBAC: access denied", "json": nil}},
		"refused":               {get, says("", "curl: (7) connection refused\n", 7), checks.Result{"sent": true, "ok": false, "status": int64(0), "error": "curl: (7) connection refused", "errorKind": "refused"}},
		"silent":                {get, says("", "curl: (28) operation timed out", 28), checks.Result{"ok": false, "errorKind": "timeout"}},
		"unresolved":            {get, says("", "curl: (6) no such host", 6), checks.Result{"ok": false, "errorKind": "dns"}},
		"reset by sidecar":      {get, says("", "curl: (56) connection reset by peer", 56), checks.Result{"errorKind": "reset"}},
		"closed":                {get, says("", "curl: (52) empty reply from server", 52), checks.Result{"errorKind": "closed"}},
		"tcp open":              {open, says("", "Connection to web 80 port [tcp/*] succeeded!\n", 0), checks.Result{"sent": true, "ok": true}},
		"tcp dropped":           {open, says("", "nc: connect to web port 80 (tcp) timed out\n", 1), checks.Result{"ok": false, "errorKind": "timeout"}},
		"dns": {
			dig, says(";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n;; flags: qr\n\nweb.a.svc. 5\tIN\tA\t10.0.0.1\n", "", 0),
			checks.Result{"ok": true, "rcode": "NOERROR", "answers": []any{"10.0.0.1"}},
		},
		"no such name":   {dig, says(";; ->>HEADER<<- opcode: QUERY, status: NXDOMAIN, id: 1\n", "", 0), checks.Result{"ok": true, "rcode": "NXDOMAIN", "answers": []any{}}},
		"no name server": {dig, says("", "", 9), checks.Result{"ok": false, "errorKind": "timeout"}},
		"exec":           {run, says("data\n", "warning\n", 3), checks.Result{"sent": true, "ok": true, "exitCode": int64(3), "stdout": "data\n", "stderr": "warning\n"}},
		"exec floods":    {run, says(strings.Repeat("x", maxBody+10), "", 0), checks.Result{"stdout": strings.Repeat("x", maxBody)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := prober(t, tt.exec).Probe(t.Context(), fromClient(tt.probe))
			if err != nil {
				t.Fatal(err)
			}
			for k, want := range tt.want {
				if d := cmp.Diff(want, got[k]); d != "" {
					t.Errorf("%s: %s", k, d)
				}
			}
		})
	}
}

func TestPodCommands(t *testing.T) {
	for want, p := range map[string]checks.Probe{
		"curl -s -S -k -i -m 0.700 --connect-timeout 0.700 -X POST -H A: 1 -H Host: web --data-binary x http://w/": {
			Timeout: 700 * time.Millisecond,
			HTTP:    &checks.HTTPProbe{URL: "http://w/", Method: "POST", Headers: map[string]string{"Host": "web", "A": "1"}, Body: "x"},
		},
		"nc -z -v -w 1 w 80": {Timeout: 700 * time.Millisecond, TCP: &checks.TCPProbe{Address: "w:80"}},
		"dig +search +tries=1 +time=3 +noall +comments +answer w SRV": {DNS: &checks.DNSProbe{Name: "w", Type: "SRV"}},
	} {
		var got string
		exec := program(func(command []string, _ io.Reader, _, _ io.Writer) error {
			got = strings.Join(command, " ")
			return exitError(1)
		})
		_, _ = prober(t, exec).Probe(t.Context(), fromClient(p))
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestPlace(t *testing.T) {
	never := program(func([]string, io.Reader, io.Writer, io.Writer) error { return errors.New("must not run") })
	for name, tt := range map[string]struct {
		from checks.Place
		want string
	}{
		"no pod":       {checks.Place{Namespace: "client", Pod: "gone"}, "there is no pod gone in namespace client"},
		"none matches": {checks.Place{Namespace: "client", Selector: "app=x"}, "there is no pod with app=x in namespace client"},
		"not running":  {checks.Place{Namespace: "client", Pod: "client-a"}, "pod client-a in namespace client is not running yet (container client: ImagePullBackOff)"},
		"no container": {checks.Place{Namespace: "client", Pod: "client-b", Container: "x"}, "pod client-b in namespace client has no running container x"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := prober(t, never).Probe(t.Context(), checks.Probe{From: tt.from, Exec: &checks.ExecProbe{Command: []string{"true"}}})
			if err != nil || got["sent"] != false || got["errorKind"] != "no-pod" || got["error"] != tt.want {
				t.Errorf("%v, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestNotAnAnswer: what keeps a question from being put is never an answer.
func TestNotAnAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		exec program
		want string
	}{
		"no program": {func([]string, io.Reader, io.Writer, io.Writer) error {
			return execError(target{"client", "client-b", "client"}, "curl", errors.New(`exec: "curl": executable file not found in $PATH`))
		}, `container client of pod client/client-b has no program "curl"`},
		"kubelet gone": {func([]string, io.Reader, io.Writer, io.Writer) error {
			return errors.New("error dialing backend: connection refused")
		}, "error dialing backend"},
		"odd output": {says("what?\n", "", 0), "not a status line"},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := prober(t, tt.exec).Probe(t.Context(), fromClient(checks.Probe{HTTP: &checks.HTTPProbe{URL: "http://web/"}}))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v, want error %q", res, err, tt.want)
			}
		})
	}
	var mender checks.Mender
	if err := error(noProgramError{}); !errors.As(err, &mender) || mender.Mend() == "" {
		t.Error("a missing program comes without a mend")
	}
}

func tlsServer(t *testing.T, clientAuth tls.ClientAuthType) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello "+r.Host) }))
	srv.Config.ErrorLog = nil
	srv.TLS = &tls.Config{ClientAuth: clientAuth, NextProtos: []string{"istio"}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// TestPodTLS lets nc be a real connection to a real server.
func TestPodTLS(t *testing.T) {
	nc := program(func(command []string, stdin io.Reader, stdout, stderr io.Writer) error {
		addr := net.JoinHostPort(command[len(command)-2], command[len(command)-1])
		c, err := net.Dial("tcp", addr)
		if err != nil {
			fmt.Fprintf(stderr, "nc: %v\n", err)
			return exitError(1)
		}
		defer c.Close()
		fmt.Fprintf(stderr, "Connection to %s succeeded!\n", addr)
		go func() { _, _ = io.Copy(c, stdin); _ = c.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(stdout, c)
		return nil
	})
	probe := func(addr string) checks.Result {
		res, err := prober(t, nc).Probe(t.Context(), fromClient(checks.Probe{TLS: &checks.TLSProbe{Address: addr, ALPN: []string{"istio"}}}))
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	plain := probe(tlsServer(t, tls.NoClientCert).Listener.Addr().String())
	if plain["ok"] != true || plain["alpn"] != "istio" || plain["version"] != "TLS 1.3" || plain["peer"] == nil {
		t.Errorf("plain: %v", plain)
	}
	mutual := probe(tlsServer(t, tls.RequireAnyClientCert).Listener.Addr().String())
	if mutual["ok"] != false || mutual["errorKind"] != "tls" || mutual["peer"] == nil {
		t.Errorf("mutual: %v", mutual)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	if gone := probe(addr); gone["ok"] != false || gone["errorKind"] != "refused" || gone["peer"] != nil {
		t.Errorf("refused: %v", gone)
	}
}

func TestHostProbes(t *testing.T) {
	srv := tlsServer(t, tls.NoClientCert)
	p := &Prober{}
	at := checks.Place{Host: true}
	res, err := p.Probe(t.Context(), checks.Probe{From: at, HTTP: &checks.HTTPProbe{URL: srv.URL, Headers: map[string]string{"host": "shop"}}})
	if err != nil || res["status"] != int64(200) || res["body"] != "hello shop" {
		t.Errorf("http: %v, %v", res, err)
	}
	res, err = p.Probe(t.Context(), checks.Probe{From: at, TLS: &checks.TLSProbe{Address: srv.Listener.Addr().String()}})
	peer, _ := res["peer"].(map[string]any)
	if err != nil || res["ok"] != true || peer["subject"] != "O=Acme Co" {
		t.Errorf("tls: %v, %v", res, err)
	}
	addr := srv.Listener.Addr().String()
	res, err = p.Probe(t.Context(), checks.Probe{From: at, TCP: &checks.TCPProbe{Address: addr}})
	if err != nil || res["ok"] != true {
		t.Errorf("tcp: %v, %v", res, err)
	}
	srv.Close()
	res, err = p.Probe(t.Context(), checks.Probe{From: at, TCP: &checks.TCPProbe{Address: addr}})
	if err != nil || res["ok"] != false || res["errorKind"] != "refused" {
		t.Errorf("tcp to nobody: %v, %v", res, err)
	}
}

func TestAccess(t *testing.T) {
	c, dyn := clustertest.New(t)
	var asked map[string]any
	dyn.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		u := a.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured).DeepCopy()
		asked, _, _ = unstructured.NestedMap(u.Object, "spec")
		_ = unstructured.SetNestedMap(u.Object, map[string]any{"allowed": true, "reason": "RBAC"}, "status")
		return true, u, nil
	})
	res, err := New(c).Probe(t.Context(), checks.Probe{Access: &checks.AccessProbe{ServiceAccount: "a/bot", Verb: "get", Resource: "pods", Namespace: "a"}})
	if err != nil || res["allowed"] != true || res["reason"] != "RBAC" {
		t.Errorf("%v, %v", res, err)
	}
	want := []any{"system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"}
	if d := cmp.Diff(want, asked["groups"]); d != "" || asked["user"] != "system:serviceaccount:a:bot" {
		t.Errorf("user %v, groups %s", asked["user"], d)
	}
}

func TestAdmit(t *testing.T) {
	gr := schema.GroupResource{Resource: "pods"}
	for name, tt := range map[string]struct {
		err     error
		allowed any // nil where there must be no answer
		message string
	}{
		"taken":           {nil, true, ""},
		"quota":           {apierrors.NewForbidden(gr, "p", errors.New("exceeded quota: budget")), false, "exceeded quota"},
		"no rights":       {apierrors.NewForbidden(gr, "", errors.New(`User "u" cannot create resource "pods"`)), nil, ""},
		"webhook is down": {apierrors.NewInternalError(errors.New("failed calling webhook")), nil, ""},
		"webhook says no": {errors.New(`admission webhook "v.istio.io" denied the request: bad`), false, "denied"},
		"cluster gone":    {errors.New("connection refused"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, dyn := clustertest.New(t)
			dyn.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
				obj := a.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured)
				if obj.GetName() != "" || obj.GetGenerateName() != "p-" {
					t.Errorf("name %q, generateName %q", obj.GetName(), obj.GetGenerateName())
				}
				if d := a.(clienttesting.CreateActionImpl).CreateOptions.DryRun; len(d) != 1 || d[0] != "All" {
					t.Errorf("dryRun %v: the object would be kept", d)
				}
				return true, obj, tt.err
			})
			manifest := map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p", "namespace": "a"}}
			res, err := New(c).Probe(t.Context(), checks.Probe{Admit: &checks.AdmitProbe{Manifest: manifest}})
			if tt.allowed == nil {
				if err == nil {
					t.Errorf("%v counts as an answer", res)
				}
				return
			}
			message, _ := res["message"].(string)
			if err != nil || res["allowed"] != tt.allowed || !strings.Contains(message, tt.message) {
				t.Errorf("%v, %v", res, err)
			}
		})
	}
}
