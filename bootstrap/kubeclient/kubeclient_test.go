package kubeclient

import (
	"strings"
	"testing"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
clusters: [{name: lab, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: lab, user: {token: t}}]
`

func TestConfig(t *testing.T) {
	c, err := Config([]byte(kubeconfig))
	if err != nil || c.Host != "https://127.0.0.1:6443" || c.QPS != -1 || c.WarningHandler == nil {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	if c, err := New([]byte(kubeconfig)); err != nil || c == nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"no YAML":    ":",
		"no context": strings.Replace(kubeconfig, "current-context: lab", "current-context: other", 1),
	} {
		if _, err := New([]byte(bad)); err == nil || !strings.Contains(err.Error(), "read kubeconfig") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
