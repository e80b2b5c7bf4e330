package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	meshapi "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/test/xds"
	istiobootstrap "istio.io/istio/pkg/bootstrap"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/security"
)

// world is a fake istiod with pods around it.
type world struct {
	t      *testing.T
	fabric *fabric
	istiod *xds.FakeDiscoveryServer
	ca     *authority
	dir    string
	ads    string
	tcp    bool // istiod listens on TCP instead of a socket
}

// pod is an application with or without the proxy beside it.
type pod struct {
	w            *world
	name, ip, ns string
	dir          string
	net          netns.NsHandle
	secrets      *secretServer
	proxy        *exec.Cmd
	proxyLog     string
	control      *http.Client
	router       bool                       // a gateway: no interception, its own listeners
	env          []string                   // more of pilot-agent's environment
	tune         func(*meshapi.ProxyConfig) // changes the proxy's configuration
}

// trusting takes every client for a pod of namespace ns, which istiod wants to know before it hands out secrets.
type trusting struct{}

func (trusting) Authenticate(security.AuthContext) (*security.Caller, error) {
	var ids []string
	for _, n := range []string{"client", "server", "gw"} {
		ids = append(ids, "spiffe://cluster.local/ns/ns/sa/"+n)
	}
	return &security.Caller{Identities: ids}, nil
}

func (trusting) AuthenticatorType() string { return "test" }

func openSocket(t *testing.T, path string) {
	t.Helper()
	must(t, os.Chmod(path, 0o777))
}

func newWorld(t *testing.T, objects, configs string) *world {
	t.Helper()
	return newWorldOn(t, objects, configs, false)
}

// newWorldOn is newWorld with istiod on TCP where tcp says so, for clients that are pilot-agents.
func newWorldOn(t *testing.T, objects, configs string, tcp bool) *world {
	t.Helper()
	return newWorldOf(t, objects, configs, tcp, func(*meshapi.MeshConfig) {})
}

// newWorldOf is newWorldOn with changes to the mesh's configuration.
func newWorldOf(t *testing.T, objects, configs string, tcp bool, tune func(*meshapi.MeshConfig)) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	dir, err := os.MkdirTemp("", "ropes-e2e")
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, tcp: tcp, dir: dir, ca: newAuthority(t), ads: filepath.Join(dir, "XDS")}
	w.fabric = newFabric(t)
	m := mesh.DefaultMeshConfig()
	m.AccessLogFile = "./access.log" // in the directory of each pod; istiod's generators cache it per process
	m.DefaultProviders = &meshapi.MeshConfig_DefaultProviders{Metrics: []string{"prometheus"}}
	tune(m)
	w.istiod = xds.NewFakeDiscoveryServer(t, xds.FakeOptions{
		KubernetesObjectString: objects, ConfigString: configs, MeshConfig: m, DisableSecretAuthorization: true,
		ListenerBuilder: func() (net.Listener, error) {
			if w.tcp {
				return w.fabric.listen(hubIP + ":15010")
			}
			return net.Listen("unix", w.ads)
		},
	})
	security.AuthPlaintext = true
	w.istiod.Discovery.Authenticators = []security.Authenticator{trusting{}}
	if !w.tcp {
		openSocket(t, w.ads)
	}
	return w
}

// podYAML describes a pod for istiod.
func podYAML(name, ip string, injected bool) string {
	labels := fmt.Sprintf("app: %s", name)
	if injected {
		labels += "\n    security.istio.io/tlsMode: istio\n    service.istio.io/canonical-name: " + name
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: ns
  labels:
    %s
spec:
  serviceAccountName: %s
  containers: [{name: app, image: x}]
status:
  phase: Running
  podIP: %s
  podIPs: [{ip: %s}]
  conditions: [{type: Ready, status: "True"}]
---
`, name, labels, name, ip, ip)
}

// serviceYAML describes a service with one slice of endpoints.
func serviceYAML(name, clusterIP, ports, slicePorts string, pods ...[2]string) string {
	var eps strings.Builder
	for _, p := range pods {
		fmt.Fprintf(&eps, "- addresses: [%s]\n  conditions: {ready: true}\n  targetRef: {kind: Pod, name: %s, namespace: ns}\n", p[1], p[0])
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: ns}
spec:
  clusterIP: %[2]s
  selector: {app: %[1]s}
  ports:
%[3]s
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s
  namespace: ns
  labels: {kubernetes.io/service-name: %[1]s}
addressType: IPv4
endpoints:
%[4]s
ports:
%[5]s
---
`, name, clusterIP, ports, eps.String(), slicePorts)
}

// start brings a pod up. Without sidecar it is only the application.
func (w *world) start(name, ip string, sidecar bool) *pod {
	w.t.Helper()
	p := &pod{w: w, name: name, ip: ip, ns: "ns", dir: filepath.Join(w.dir, name)}
	p.start(sidecar)
	return p
}

// gateway brings a gateway up.
func (w *world) gateway(name, ip string) *pod {
	w.t.Helper()
	p := &pod{w: w, name: name, ip: ip, ns: "ns", dir: filepath.Join(w.dir, name), router: true}
	p.start(true)
	return p
}

func (p *pod) start(sidecar bool) {
	w, name, ip := p.w, p.name, p.ip
	w.t.Helper()
	uds := filepath.Join(p.dir, "var/run/secrets/workload-spiffe-uds")
	must(w.t, os.MkdirAll(uds, 0o755))
	p.net = w.fabric.join(name, ip)
	sock := filepath.Join(p.dir, "control")
	app := p.command(1000, "app", sock)
	if p.router {
		app.Env = append(app.Env, "PORTS=none")
	}
	must(w.t, startIn(p.net, app))
	p.control = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sock)
	}}}
	w.t.Cleanup(func() { p.control.CloseIdleConnections(); stopProcess(app) })
	p.until("the application is up", func() error {
		o, err := p.order(order{Kind: "http", Method: "GET", URL: "http://127.0.0.1:8080/"})
		if err == nil && o.Err != "" && !p.router {
			err = fmt.Errorf("%s", o.Err)
		}
		return err
	})
	if !sidecar {
		return
	}
	p.secrets = serveSecrets(w.t, filepath.Join(uds, "socket"))
	p.rotate(w.ca)
	if !p.router {
		p.intercept()
	}
	p.startProxy()
}

func (p *pod) rotate(ca *authority) {
	cert, key := ca.issue(p.w.t, "spiffe://cluster.local/ns/ns/sa/"+p.name)
	p.secrets.set(ca.pem, cert, key)
}

func (p *pod) command(uid uint32, as string, args ...string) *exec.Cmd {
	exe, err := os.Executable()
	must(p.w.t, err)
	// The binary must be readable by the user it runs as.
	copied := filepath.Join(p.w.dir, "e2e.test")
	if _, err := os.Stat(copied); err != nil {
		b, err := os.ReadFile(exe)
		must(p.w.t, err)
		must(p.w.t, os.WriteFile(copied, b, 0o755))
	}
	must(p.w.t, os.Chmod(p.dir, 0o777))
	cmd := exec.Command(copied, args...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), role+"="+as, "POD="+p.name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	return cmd
}

func stopProcess(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// startProxy renders istio's bootstrap template as pilot-agent does and starts the proxy with pilot-agent's arguments.
func (p *pod) startProxy() {
	t := p.w.t
	t.Helper()
	pc := mesh.DefaultProxyConfig()
	pc.ConfigPath = p.w.dir
	pc.ProxyAdminPort = 15000
	pc.StatusPort = 15020
	pc.DiscoveryAddress = "istiod.istio-system.svc:15012"
	pc.DrainDuration = nil
	if p.tune != nil {
		p.tune(pc)
	}
	node, err := istiobootstrap.GetNodeMetaData(istiobootstrap.MetadataOptions{
		ID: fmt.Sprintf("%s~%s~%s.ns~ns.svc.cluster.local", map[bool]string{true: "router", false: "sidecar"}[p.router], p.ip, p.name),
		Envs: append([]string{
			"ISTIO_META_CLUSTER_ID=Kubernetes", "ISTIO_META_WORKLOAD_NAME=" + p.name, "ISTIO_META_INTERCEPTION_MODE=REDIRECT",
			"ISTIO_META_MESH_ID=cluster.local", "ISTIO_META_OWNER=kubernetes://apis/apps/v1/namespaces/ns/deployments/" + p.name,
			`ISTIO_METAJSON_LABELS={"app":"` + p.name + `","service.istio.io/canonical-name":"` + p.name + `"}`,
			"POD_NAME=" + p.name, "POD_NAMESPACE=ns", "SERVICE_ACCOUNT=" + p.name,
		}, p.env...),
		InstanceIPs: []string{p.ip}, ProxyConfig: pc, EnvoyStatusPort: 15021, EnvoyPrometheusPort: 15090,
		WorkloadIdentitySocketFile: "socket",
	})
	must(t, err)
	node.Metadata.Namespace, node.Metadata.ServiceAccount = "ns", p.name
	tmpl := filepath.Join(istioDir(t), "tools/packaging/common/envoy_bootstrap.json")
	var buf bytes.Buffer
	must(t, istiobootstrap.New(istiobootstrap.Config{Node: node}).WriteTo(tmpl, &buf))
	boot := filepath.Join(p.dir, "envoy-rev.json")
	must(t, os.WriteFile(boot, buf.Bytes(), 0o644))
	p.proxyLog = filepath.Join(p.dir, "proxy.log")
	out, err := os.Create(p.proxyLog)
	must(t, err)
	p.proxy = p.command(1337, "envoy", "-c", boot, "--drain-time-s", "5", "--drain-strategy", "immediate",
		"--local-address-ip-version", "v4", "--file-flush-interval-msec", "100", "--disable-hot-restart",
		"--allow-unknown-static-fields", "-l", "debug", "--component-log-level", "misc:error", "--concurrency", "2")
	p.proxy.Stdout, p.proxy.Stderr = out, out
	must(t, startIn(p.net, p.proxy))
	t.Cleanup(func() {
		stopProcess(p.proxy)
		_ = out.Close()
		if t.Failed() {
			b, _ := os.ReadFile(p.proxyLog)
			if len(b) > 6000 {
				b = b[len(b)-6000:]
			}
			t.Logf("proxy of %s:\n%s", p.name, b)
		}
	})
	p.until("the proxy is live", func() error {
		b, err := p.admin("ready")
		if err != nil {
			return err
		}
		if b != "LIVE\n" {
			return fmt.Errorf("%s", b)
		}
		return nil
	})
}

func istioDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "istio.io/istio").Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// admin reads a path of the proxy's admin port, from inside the pod.
func (p *pod) admin(path string) (string, error) {
	o, err := p.order(order{Kind: "http", Method: "GET", URL: "http://127.0.0.1:15000/" + path})
	if err != nil {
		return "", err
	}
	if o.Err != "" {
		return "", fmt.Errorf("%s", o.Err)
	}
	return o.Body, nil
}

func (p *pod) order(o order) (outcome, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return outcome{}, err
	}
	resp, err := p.control.Post("http://pod/", "application/json", bytes.NewReader(b))
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return outcome{}, err
	}
	var out outcome
	return out, json.Unmarshal(raw, &out)
}

// get sends a GET from the pod.
func (p *pod) get(url string) outcome {
	p.w.t.Helper()
	return p.send(order{Kind: "http", Method: "GET", URL: url})
}

func (p *pod) send(o order) outcome {
	p.w.t.Helper()
	out, err := p.order(o)
	must(p.w.t, err)
	return out
}

// until waits for a condition, at most 20 seconds.
func (p *pod) until(what string, fn func() error) {
	p.w.t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = fn(); err == nil {
			return
		}
	}
	p.w.t.Fatalf("%s: %s: %v", p.name, what, err)
}

// echoed decodes what the application saw of a request.
type echoed struct {
	Name, Proto, Path, Authority, Body, Method string
	Headers                                    http.Header
}

func (o outcome) echo(t *testing.T) echoed {
	t.Helper()
	if o.Status != 200 || o.Err != "" {
		t.Fatalf("outcome %+v", o)
	}
	var e echoed
	must(t, json.Unmarshal([]byte(o.Body), &e))
	return e
}
