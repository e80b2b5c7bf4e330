//go:build live

package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func (m *mesh) istioctl(t *testing.T, args ...string) string {
	t.Helper()
	return m.r.ok(t, append([]string{"--name", m.cluster, "istioctl"}, args...)...).stdout
}

// meshIstioctl asks Istio's own tool about the proxies and wants sensible answers.
func meshIstioctl(t *testing.T, m *mesh) {
	// The port is named, or the analyzer finds fault.
	routes := strings.ReplaceAll(toV2(`{uri: {prefix: /two}}`), "host: app,", "host: app, port: {number: 80},")
	m.apply(t, subsets+"---"+routes+"---"+policy("ctl", `
  action: DENY
  rules:
  - to: [{operation: {paths: [/denied-for-ctl], ports: ["8080"]}}]
`))
	m.client.only(t, "v2", get("http://app/two"))
	m.client.want(t, get("http://app/denied-for-ctl"), code(403))
	client := m.client.pod.Name + ".mesh"
	v1 := m.mustPod(t, "mesh", "app=app,version=v1")
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"proxy-config", "cluster", client, "--fqdn", "app.mesh.svc.cluster.local"}, []string{"app.mesh.svc.cluster.local", "v2", "outbound", "EDS", "app.mesh"}},
		{[]string{"proxy-config", "listener", client}, []string{"15001", "15006", "PassthroughCluster", "Route: 80", "0.0.0.0"}},
		{[]string{"proxy-config", "listener", client, "--port", "15006", "-o", "json"}, []string{`"virtualInbound"`, `"filterChains"`}},
		{[]string{"proxy-config", "route", client, "--name", "80"}, []string{"app.mesh.svc.cluster.local", "/two", "app.mesh"}},
		{[]string{"proxy-config", "endpoint", client, "--cluster", "outbound|80||app.mesh.svc.cluster.local"}, []string{v1.Status.PodIP + ":8080", "HEALTHY", "OK"}},
		{[]string{"proxy-config", "secret", client}, []string{"default", "Cert Chain", "ACTIVE", "true", "ROOTCA", "CA"}},
		{[]string{"proxy-config", "bootstrap", client}, []string{`"xds-grpc"`, m.client.pod.Name, `"prometheus_stats"`}},
		{[]string{"proxy-config", "log", client}, []string{"active loggers", "rbac: "}},
		{[]string{"proxy-config", "all", client}, []string{"app.mesh.svc.cluster.local", "15006", "ROOTCA", v1.Status.PodIP + ":8080", "/two"}},
		{[]string{"experimental", "describe", "pod", v1.Name + ".mesh"}, []string{"Pod: " + v1.Name, "Service: app", "DestinationRule: app", "Matching subsets: v1", "VirtualService: app", "ctl", "PERMISSIVE"}},
		{[]string{"experimental", "describe", "service", "app.mesh"}, []string{"Service: app", "Port: http 80/HTTP", "DestinationRule: app", "VirtualService: app"}},
		{[]string{"experimental", "authz", "check", v1.Name + ".mesh"}, []string{"DENY", "ctl.mesh"}},
	} {
		t.Run(strings.Join(slices.DeleteFunc(slices.Clone(tc.args), func(s string) bool { return strings.Contains(s, ".") }), " "), func(t *testing.T) {
			// The policy is seen in force at one server of two: the other's proxy may have it a little later.
			eventually(t, settle, func() error {
				out := m.istioctl(t, tc.args...)
				for _, w := range tc.want {
					if !strings.Contains(out, w) {
						return fmt.Errorf("no %q in\n%.4000s", w, out)
					}
				}
				return nil
			})
		})
	}
	t.Run("proxy-config log sets a level", func(t *testing.T) {
		if out := m.istioctl(t, "proxy-config", "log", client, "--level", "debug"); !strings.Contains(out, "debug") {
			t.Errorf("%s", out)
		}
		m.istioctl(t, "proxy-config", "log", client, "--level", "warning")
	})
	t.Run("proxy-status", func(t *testing.T) {
		eventually(t, settle, func() error {
			out := m.istioctl(t, "proxy-status", "-v", "1")
			for line := range strings.Lines(out) {
				switch {
				case !strings.HasPrefix(line, client):
				case strings.Count(line, "SYNCED") < 4 || strings.Contains(line, "STALE"):
					return errors.New(line)
				default:
					return nil
				}
			}
			return fmt.Errorf("no %s in\n%s", client, out)
		})
		// Of one proxy it shows the difference between what istiod sent and what the proxy has: none.
		eventually(t, settle, func() error {
			out := m.istioctl(t, "proxy-status", client)
			for _, w := range []string{"Clusters Match", "Listeners Match", "Routes Match"} {
				if !strings.Contains(out, w) {
					return fmt.Errorf("no %q in\n%.3000s", w, out)
				}
			}
			return nil
		})
	})
	t.Run("analyze", func(t *testing.T) {
		// That there is nothing to say it says on stderr.
		if sound := m.r.run(t, "--name", m.cluster, "istioctl", "analyze", "-n", "mesh"); sound.code != 0 || !strings.Contains(sound.stderr, "No validation issues found") {
			t.Errorf("of what is sound it says\n%s%s", sound.stdout, sound.stderr)
		}
		m.apply(t, strings.ReplaceAll(routes, "subset: v2", "subset: v7"))
		res := m.r.run(t, "--name", m.cluster, "istioctl", "analyze", "-n", "mesh", "-o", "json")
		var found []struct{ Code, Origin string }
		if err := json.Unmarshal([]byte(res.stdout), &found); err != nil {
			t.Fatalf("%v in %s%s", err, res.stdout, res.stderr)
		}
		if len(found) != 1 || found[0].Code != "IST0101" || !strings.Contains(found[0].Origin, "VirtualService") {
			t.Errorf("of a subset that is not there it says %+v, status %d", found, res.code)
		}
	})
}
