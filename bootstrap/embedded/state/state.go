// Package state knows where an embedded cluster keeps its things on the host and in
// what form: the layout of its directory, its configuration, and the progress that the
// supervisor reports. It starts nothing and removes nothing.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ropes-dev/ropes/bootstrap"
)

// DefaultRoot is where clusters live unless told otherwise.
const DefaultRoot = "/var/lib/ropes"

// Role is what a node is for.
type Role string

// The roles.
const (
	ControlPlane Role = "control-plane"
	Worker       Role = "worker"
)

// Node is one machine of the cluster, as planned before any of it exists.
type Node struct {
	Name    string `json:"name"`
	Role    Role   `json:"role"`
	IP      string `json:"ip"`      // on the cluster's bridge
	PodCIDR string `json:"podCIDR"` // addresses of its pods
}

// Uplink is the link between the cluster's own network and the host's.
type Uplink struct {
	HostLink    string `json:"hostLink"`    // name of the host's end
	HostCIDR    string `json:"hostCIDR"`    // address of the host's end with prefix length
	ClusterIP   string `json:"clusterIP"`   // address of the cluster's end
	ClusterCIDR string `json:"clusterCIDR"` // the same with prefix length
	HostIP      string `json:"hostIP"`      // gateway of the cluster
	NATTable    string `json:"natTable"`    // nft table on the host that masquerades the cluster
}

// Config describes a cluster completely. It is written before anything is made.
type Config struct {
	Name       string    `json:"name"`
	ID         string    `json:"id"` // short, unique on this host, fits into link names
	PayloadDir string    `json:"payloadDir"`
	Created    time.Time `json:"created"`
	Nodes      []Node    `json:"nodes"`

	BridgeCIDR    string `json:"bridgeCIDR"` // address of the bridge with prefix length
	BridgeIP      string `json:"bridgeIP"`   // gateway, registry and resolver of the nodes
	PodSubnet     string `json:"podSubnet"`
	ServiceSubnet string `json:"serviceSubnet"`
	// LoadBalancerCIDR holds the addresses of Services of type LoadBalancer, a part of the
	// bridge's network that no node has an address in. Empty in clusters of older versions.
	LoadBalancerCIDR string `json:"loadBalancerCIDR,omitempty"`
	Uplink           Uplink `json:"uplink"`

	APIPort   int `json:"apiPort"`
	HTTPPort  int `json:"httpPort"`
	HTTPSPort int `json:"httpsPort"`

	// Nameservers outside the cluster that the nodes may ask; empty where the host
	// has none that can be reached from another network namespace.
	Nameservers []string `json:"nameservers,omitempty"`
}

// Node ports of the ingress gateway, inside the cluster.
const (
	IngressHTTPNodePort  = 30080
	IngressHTTPSNodePort = 30443
)

// ID derives the short identifier of a cluster's host objects from its name.
func ID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:4])
}

// CgroupOf is the control group of a cluster; each node has one below it.
func CgroupOf(cluster string) string { return "ropes-" + cluster }

// File descriptors that the provider hands to the supervisor, in this order: the
// supervisor's lock, held for as long as it lives, then the listeners on the host's
// loopback for the API server and the ingress gateway, then a pipe that says when to go
// ahead.
const (
	LockFD = 3 + iota
	APIFD
	HTTPFD
	HTTPSFD
	GoAheadFD
)

// UplinkName is the cluster's end of the link to the host.
const UplinkName = "uplink"

// ControlPlane returns the node that runs the control plane.
func (c *Config) ControlPlane() Node {
	i := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.Role == ControlPlane })
	return c.Nodes[i]
}

// Dir is a cluster's directory.
type Dir string

// ClusterDir is the directory of the cluster called name under root.
func ClusterDir(root, name string) Dir { return Dir(filepath.Join(root, "clusters", name)) }

func (d Dir) join(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Paths inside a cluster's directory.
func (d Dir) Config() string         { return d.join("cluster.json") }
func (d Dir) Lock() string           { return d.join("lock") }
func (d Dir) SupervisorLock() string { return d.join("supervisor.lock") }
func (d Dir) Status() string         { return d.join("status.json") }
func (d Dir) Kubeconfig() string     { return d.join("kubeconfig") }
func (d Dir) Logs() string           { return d.join("logs") }
func (d Dir) SupervisorLog() string  { return d.join("logs", "supervisor.log") }

// Images is an OCI image layout of images beside those of the payload; it need not be there.
func (d Dir) Images() string { return d.join("images") }

func (d Dir) Node(name string) string {
	return d.join("nodes", name)
}

// NodeEtc and NodeVar are what the node sees as /etc and /var.
func (d Dir) NodeEtc(name string) string { return d.join("nodes", name, "etc") }
func (d Dir) NodeVar(name string) string { return d.join("nodes", name, "var") }

// Load reads the configuration of a cluster. The error wraps fs.ErrNotExist where
// there is no such cluster.
func (d Dir) Load() (*Config, error) {
	var c Config
	if err := readJSON(d.Config(), &c); err != nil {
		return nil, err
	}
	return &c, nil
}

// Save writes the configuration.
func (d Dir) Save(c *Config) error { return WriteJSON(d.Config(), c) }

// Phase is a stretch of the supervisor's work.
type Phase struct {
	Name   string    `json:"name"`
	Detail string    `json:"detail,omitempty"` // what is waited for
	Start  time.Time `json:"start"`
	End    time.Time `json:"end,omitzero"`
}

// Status is what the supervisor says of itself.
type Status struct {
	PID    int     `json:"pid"` // as seen on the host, filled in by the reader
	Phases []Phase `json:"phases"`
	Ready  bool    `json:"ready"`           // control plane answers, nodes registered, kubeadm's add-ons applied
	Error  string  `json:"error,omitempty"` // why it gave up
}

// PhaseNodes is the phase in which the nodes' first processes are started.
const PhaseNodes = "nodes"

// Began is when a phase began, zero where it has not.
func (s Status) Began(phase string) time.Time {
	for _, p := range s.Phases {
		if p.Name == phase {
			return p.Start
		}
	}
	return time.Time{}
}

// LoadStatus reads the supervisor's status; the zero Status where it has said nothing yet.
func (d Dir) LoadStatus() (Status, error) {
	var s Status
	err := readJSON(d.Status(), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return Status{}, nil
	}
	return s, err
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// WriteJSON writes v so that a reader sees the old file or the new one, never a part.
func WriteJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(data, '\n'), 0o600)
}

// WriteFile replaces path as a whole, making its directory where needed.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return bootstrap.ReplaceFile(path, data, mode)
}
