package node

import (
	"encoding/json"
	"fmt"
)

// nodeFiles are the files that the node writes anew at every start, by path.
func nodeFiles(cfg *Config) map[string]string {
	return map[string]string{
		"/etc/containerd/config.toml":                 containerdConfig(cfg),
		"/etc/containerd/certs.d/_default/hosts.toml": hostsConfig(cfg),
		"/etc/cni/net.d/10-ropes.conflist":            cniConfig(cfg),
	}
}

// containerdConfig is containerd's configuration, version 3
// (containerd/docs/cri/config.md).
func containerdConfig(cfg *Config) string {
	return fmt.Sprintf(`version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = %q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = %t
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = "/etc/cni/net.d"
    bin_dirs = ["/opt/cni/bin"]
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "/usr/local/bin/runc"
    SystemdCgroup = false
[plugins."io.containerd.cri.v1.images"]
  snapshotter = %q
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %q
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"
`, containerdSocket, cfg.RestrictOOMScore, cfg.Snapshotter, cfg.PauseImage)
}

// hostsConfig makes the cluster's own registry the first to be asked for every image;
// the image's real registry stays the fallback.
func hostsConfig(cfg *Config) string {
	return fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", cfg.Mirror)
}

// cniConfig chains ptp, which gives each pod a routed veth pair, and portmap, which
// serves hostPort.
func cniConfig(cfg *Config) string {
	type object = map[string]any
	conf := object{
		"cniVersion": "1.0.0",
		"name":       "ropes",
		"plugins": []object{
			{
				"type": "ptp", "ipMasq": false, "mtu": 1500,
				"ipam": object{
					"type": "host-local", "dataDir": "/run/cni-ipam",
					"ranges": [][]object{{{"subnet": cfg.PodCIDR}}},
					"routes": []object{{"dst": "0.0.0.0/0"}},
				},
			},
			{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
		},
	}
	data, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		panic(err) // plain maps of strings always marshal
	}
	return string(data) + "\n"
}
