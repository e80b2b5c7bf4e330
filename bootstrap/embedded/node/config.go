// Package node is the first process of an embedded node: it builds the node's view of
// the file system, keeps containerd and kubelet running, and reaps what they leave.
// It knows one node and no cluster; everything it needs is in its Config.
//
// Life of a node process (PID 1 of its own PID namespace):
//
//	Enter   waits for the go-ahead on fd 3, unshares the cgroup namespace, mounts the
//	        node's root, pivots into it and executes itself again as Init
//	Init    addresses and routes -> containerd -> kubelet, restarted as they exit
//	SIGTERM kubelet, then containerd are ended; the kernel ends the rest with PID 1
package node

import (
	"encoding/json"
	"fmt"
	"os"
)

// ConfigPath is where the node finds its Config, inside its own root.
const ConfigPath = "/etc/ropes/node.json"

// containerdSocket is where containerd listens, in the node.
const containerdSocket = "/run/containerd/containerd.sock"

// Config is what a node must know to start.
type Config struct {
	Hostname   string  `json:"hostname"`
	IP         string  `json:"ip"`     // address on the cluster's bridge
	Prefix     int     `json:"prefix"` // length of the bridge's prefix
	Gateway    string  `json:"gateway"`
	PodCIDR    string  `json:"podCIDR"`
	Services   string  `json:"services"` // addresses of Services
	Routes     []Route `json:"routes"`   // to the pods of the other nodes
	Mirror     string  `json:"mirror"`   // registry asked first for every image, as a URL
	PauseImage string  `json:"pauseImage"`

	Snapshotter       string   `json:"snapshotter"`       // overlayfs, or native where overlay cannot be stacked
	RestrictOOMScore  bool     `json:"restrictOOMScore"`  // the host withholds CAP_SYS_RESOURCE
	KubeletExtraFlags []string `json:"kubeletExtraFlags"` // from kubeadm
}

// Route leads to the pods of another node.
type Route struct {
	CIDR string `json:"cidr"`
	Via  string `json:"via"`
}

// LoadConfig reads a Config from path.
func LoadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// Paths says where on the host a node's parts lie.
type Paths struct {
	Payload string `json:"payload"` // unpacked payload, read only
	Etc     string `json:"etc"`
	Var     string `json:"var"`
	Root    string `json:"root"` // empty directory to mount the root on
}
