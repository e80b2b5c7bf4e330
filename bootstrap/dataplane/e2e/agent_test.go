package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	meshapi "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/cmd/pilot-agent/app"
	istioagent "istio.io/istio/pkg/istio-agent"
	"istio.io/istio/pkg/security"
	"istio.io/istio/security/pkg/nodeagent/sds"
)

// runAgent is istio's pilot-agent, as its own main starts it.
func runAgent(args []string) int {
	root := app.NewRootCommand(func(o *security.Options, c security.SecretManager, k *meshapi.PrivateKeyProvider) istioagent.SDSService {
		return sds.NewServer(o, c, k)
	})
	root.SetArgs(args)
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestPilotAgent lets istio's real pilot-agent render the bootstrap, start the proxy, carry its discovery and say when
// it is ready. Certificates come from a workload socket that the agent finds in place.
func TestPilotAgent(t *testing.T) {
	objects := podYAML("client", "10.9.0.1", true) + podYAML("server", "10.9.0.2", true) +
		serviceYAML("server", "10.96.0.2", httpPorts, slicePorts, [2]string{"server", "10.9.0.2"})
	w := newWorldOn(t, objects, "", true)
	server, client := w.agent("server", "10.9.0.2"), w.agent("client", "10.9.0.1")
	for _, p := range []*pod{server, client} {
		for _, url := range []string{"http://127.0.0.1:15020/healthz/ready", "http://127.0.0.1:15021/healthz/ready"} {
			p.until(url, func() error {
				o, err := p.order(order{Kind: "http", Method: "GET", URL: url})
				if err == nil && o.Status != 200 {
					err = fmt.Errorf("%+v", o)
				}
				return err
			})
		}
	}
	eventually(t, client, "a request over mTLS", answers(client, request("/"), 200, "sa/client"))
	for _, url := range []string{"http://127.0.0.1:15020/stats/prometheus", "http://127.0.0.1:15090/stats/prometheus"} {
		if o := client.get(url); !strings.Contains(o.Body, "istio_requests_total{") {
			t.Errorf("%s: %.500s", url, o.Body)
		}
	}
	noNacks(t, client, server)
	must(t, server.proxy.Process.Signal(syscall.SIGTERM))
	done := make(chan error, 1)
	go func() { done <- server.proxy.Wait() }()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Error("pilot-agent is still running 15 s after SIGTERM")
	}
}

// agent brings a pod up whose sidecar is started by pilot-agent.
func (w *world) agent(name, ip string) *pod {
	w.t.Helper()
	p := &pod{w: w, name: name, ip: ip, ns: "ns", dir: filepath.Join(w.dir, name)}
	p.start(false)
	p.secrets = serveSecrets(w.t, filepath.Join(p.dir, "var/run/secrets/workload-spiffe-uds/socket"))
	p.rotate(w.ca)
	p.intercept()
	must(w.t, os.MkdirAll(filepath.Join(p.dir, "etc/istio/proxy"), 0o777))
	must(w.t, os.Chmod(filepath.Join(p.dir, "etc/istio/proxy"), 0o777))
	must(w.t, os.MkdirAll(filepath.Join(p.dir, "var/lib/istio/envoy"), 0o755))
	tmpl, err := os.ReadFile(filepath.Join(istioDir(w.t), "tools/packaging/common/envoy_bootstrap.json"))
	must(w.t, err)
	must(w.t, os.WriteFile(filepath.Join(p.dir, "var/lib/istio/envoy/envoy_bootstrap_tmpl.json"), tmpl, 0o644))
	envoy := filepath.Join(p.dir, "envoy")
	p.proxy = p.command(1337, "agent", "proxy", "sidecar", "--domain", "ns.svc.cluster.local", "--proxyLogLevel=warning",
		"--proxyComponentLogLevel=misc:error", "--log_output_level=default:info")
	must(w.t, os.Link(filepath.Join(w.dir, "e2e.test"), envoy))
	p.proxy.Env = append(p.proxy.Env, "PROXY_CONFIG="+fmt.Sprintf(
		`{"discoveryAddress":"%s:15010","controlPlaneAuthPolicy":"NONE","binaryPath":%q,"terminationDrainDuration":"1s"}`, hubIP, envoy),
		"INSTANCE_IP="+ip, "POD_NAME="+name, "POD_NAMESPACE=ns", "SERVICE_ACCOUNT="+name, "ISTIO_META_CLUSTER_ID=Kubernetes",
		"ISTIO_META_INTERCEPTION_MODE=REDIRECT", "ISTIO_META_WORKLOAD_NAME="+name, "TRUST_DOMAIN=cluster.local", "PILOT_CERT_PROVIDER=istiod",
		`ISTIO_METAJSON_LABELS={"app":"`+name+`"}`, "ISTIO_META_APP_CONTAINERS=app", "HOST_IP=127.0.0.1")
	p.proxyLog = filepath.Join(p.dir, "proxy.log")
	out, err := os.Create(p.proxyLog)
	must(w.t, err)
	p.proxy.Stdout, p.proxy.Stderr = out, out
	p.proxy.SysProcAttr.Setpgid = true // the agent's proxy is in its group, and would outlive it
	must(w.t, startIn(p.net, p.proxy))
	w.t.Cleanup(func() {
		_ = syscall.Kill(-p.proxy.Process.Pid, syscall.SIGKILL)
		stopProcess(p.proxy)
		_ = out.Close()
		if w.t.Failed() {
			b, _ := os.ReadFile(p.proxyLog)
			w.t.Logf("agent of %s:\n%s", p.name, b)
		}
	})
	return p
}
