package images

import (
	"path"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Tags under which images are served. Those of registry.k8s.io are what kubeadm asks
// for by default.
const (
	KubernetesTag = "v1.36.3"
	// EtcdTag is kubeadm's default, so that no setting is needed. The program inside is
	// etcd v3.6.13, the version that builds together with the rest: a patch release of
	// the same minor.
	EtcdTag          = "3.6.8-0"
	CoreDNSTag       = "v1.14.2"
	PauseTag         = "3.10.2"
	IstioTag         = "1.31"
	AppTag           = "v1"
	NodeTag          = "v1"
	MetricsServerTag = "v0.9.0"
)

// Hosts that the images are named under.
const (
	kubernetesHost = "registry.k8s.io"
	ropesHost      = "ropes.local"
)

// searchPath is what containers look for programs in.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// istioUser runs the mesh's programs; sidecar redirection exempts this user.
const istioUser = 1337

// AppNames are the names that ropes-app goes by in ropes.local/app, each a symbolic link
// in /usr/bin. A test of cmd/ropes-app compares them with what the program knows.
func AppNames() []string {
	return []string{
		"productpage", "details", "reviews", "ratings", "httpbin", "outside", "serve", "relay",
		"curl", "dig", "nc", "sh", "tar", "test", "[",
		"cat", "chmod", "cp", "cut", "date", "df", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mv",
		"ps", "rm", "seq", "sha256sum", "sleep", "sort", "tail", "tee", "touch", "tr", "true", "uniq", "wc",
	}
}

// recipe says what an image is made of.
type recipe struct {
	ref    string // host/repository:tag
	layers []layerSpec
	config v1.Config
}

// layerSpec says what a layer is made of. Layers of one name are one layer.
type layerSpec struct {
	name string
	lay  func(payload string) (*layer, error)
}

// recipes is the table of all images.
func recipes() []recipe {
	node := program("ropes-node", "usr/local/bin/ropes-node")
	onNode := func(ref, name, at string, extra ...layerSpec) recipe {
		layers := []layerSpec{base, node}
		layers = append(layers, extra...)
		layers = append(layers, links(name, map[string]string{at: "/usr/local/bin/ropes-node"}))
		return recipe{ref: ref, layers: layers, config: start("/" + at)}
	}
	kube := func(name string, extra ...layerSpec) recipe {
		return onNode(kubernetesHost+"/"+name+":"+KubernetesTag, name, "usr/local/bin/"+name, extra...)
	}
	host := tree("host")
	template := file("share/envoy_bootstrap_tmpl.json", "var/lib/istio/envoy/envoy_bootstrap_tmpl.json")
	return []recipe{
		kube("kube-apiserver"),
		kube("kube-controller-manager"),
		kube("kube-scheduler"),
		kube("kube-proxy", host, program("nft", "usr/local/sbin/nft")), // found before the real one
		onNode(kubernetesHost+"/etcd:"+EtcdTag, "etcd", "usr/local/bin/etcd"),
		// Upstream's CoreDNS runs as nonroot with a file capability. Ours is a symbolic link,
		// which can have none, so it is root with what kubeadm's manifest leaves of root.
		onNode(kubernetesHost+"/coredns/coredns:"+CoreDNSTag, "coredns", "coredns"),
		withUser(onNode(ropesHost+"/metrics-server:"+MetricsServerTag, "metrics-server", "metrics-server"), "65532:65532"),
		{
			ref: ropesHost + "/node:" + NodeTag,
			layers: []layerSpec{base, node, host, links("node", map[string]string{
				"usr/local/bin/storage-provisioner": "/usr/local/bin/ropes-node",
				"usr/local/bin/network-policy":      "/usr/local/bin/ropes-node",
			})},
			config: start("/usr/local/bin/ropes-node"),
		},
		{
			ref:    kubernetesHost + "/pause:" + PauseTag,
			layers: []layerSpec{program("pause", "pause")},
			config: v1.Config{Entrypoint: []string{"/pause"}, Env: []string{searchPath}, User: "65535:65535"},
		},
		withUser(recipe{
			ref:    ropesHost + "/istio/pilot:" + IstioTag,
			layers: []layerSpec{base, program("pilot-discovery", "usr/local/bin/pilot-discovery")},
			config: start("/usr/local/bin/pilot-discovery"),
		}, "1337:1337"),
		withUser(recipe{
			ref: ropesHost + "/istio/proxyv2:" + IstioTag,
			layers: []layerSpec{base, program("ropes-proxy", "usr/local/bin/ropes-proxy"), template, istioDirs, links("proxy", map[string]string{
				"usr/local/bin/pilot-agent": "/usr/local/bin/ropes-proxy",
				"usr/local/bin/envoy":       "/usr/local/bin/ropes-proxy",
			})},
			config: start("/usr/local/bin/pilot-agent"),
		}, "1337:1337"),
		{
			ref:    ropesHost + "/app:" + AppTag,
			layers: []layerSpec{base, program("ropes-app", "usr/local/bin/ropes-app"), appLinks()},
			config: start("/usr/local/bin/ropes-app"),
		},
	}
}

func start(entrypoint string) v1.Config {
	return v1.Config{Entrypoint: []string{entrypoint}, Env: []string{searchPath}, WorkingDir: "/"}
}

func withUser(r recipe, user string) recipe {
	r.config.User = user
	return r
}

// program is a layer of one payload program, executable at the given place.
func program(name, at string) layerSpec {
	return layerSpec{name: name, lay: func(payload string) (*layer, error) {
		return layEntries(append(parents(at), entry{name: at, mode: 0o755, file: filepath.Join(payload, "bin", name)}))
	}}
}

// file is a layer of one payload file, readable by all.
func file(name, at string) layerSpec {
	return layerSpec{name: path.Base(name), lay: func(payload string) (*layer, error) {
		return layEntries(append(parents(at), entry{name: at, mode: 0o644, file: filepath.Join(payload, filepath.FromSlash(name))}))
	}}
}

// tree is a layer of one payload directory, laid at the image's root.
func tree(name string) layerSpec {
	return layerSpec{name: name, lay: func(payload string) (*layer, error) {
		entries, err := treeEntries(filepath.Join(payload, name))
		if err != nil {
			return nil, err
		}
		return layEntries(entries)
	}}
}

// links is a layer of symbolic links, from place to target.
func links(name string, targets map[string]string) layerSpec {
	return layerSpec{name: name + " links", lay: func(string) (*layer, error) {
		var entries []entry
		for _, at := range sorted(targets) {
			entries = append(entries, entry{name: at, link: targets[at]})
		}
		return layEntries(entries)
	}}
}

func appLinks() layerSpec {
	targets := map[string]string{"bin": "usr/bin"}
	for _, name := range AppNames() {
		targets["usr/bin/"+name] = "/usr/local/bin/ropes-app"
	}
	return links("app", targets)
}

// base is the layer beneath all images but pause: names of users, and the directories
// that programs expect.
var base = layerSpec{name: "base", lay: func(string) (*layer, error) {
	return layEntries([]entry{
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, body: []byte("root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\nistio-proxy:x:1337:\n")},
		{name: "etc/nsswitch.conf", mode: 0o644, body: []byte("hosts: files dns\n")},
		{name: "etc/passwd", mode: 0o644, body: []byte(
			"root:x:0:0:root:/root:/bin/sh\n" +
				"nobody:x:65534:65534:nobody:/:/bin/false\n" +
				"nonroot:x:65532:65532:nonroot:/:/bin/false\n" +
				"istio-proxy:x:1337:1337:istio-proxy:/:/bin/false\n")},
		{name: "etc/protocols", mode: 0o644, body: []byte(protocols)},
		{name: "root/", mode: 0o700},
		{name: "run/", mode: 0o755},
		{name: "tmp/", mode: 0o1777},
		{name: "usr/", mode: 0o755},
		{name: "usr/bin/", mode: 0o755},
		{name: "usr/local/", mode: 0o755},
		{name: "usr/local/bin/", mode: 0o755},
		{name: "var/", mode: 0o755},
		{name: "var/run", link: "/run"},
	})
}}

// protocols names IP's protocols by IANA's numbers. nft writes a protocol by its name where
// this file has it, and else by its number; kube-proxy compares what nft lists with the names
// that it wrote, and takes away what it does not know: without this file, at every full
// synchronisation, every hour and whenever a node's zone changes, all Services.
const protocols = `icmp 1 ICMP
tcp 6 TCP
udp 17 UDP
dccp 33 DCCP
esp 50 IPSEC-ESP
ah 51 IPSEC-AH
ipv6-icmp 58 IPv6-ICMP
comp 108 IPCOMP
sctp 132 SCTP
udplite 136 UDPLite
`

// istioDirs are the directories that the mesh's user may write to.
var istioDirs = layerSpec{name: "istio directories", lay: func(string) (*layer, error) {
	return layEntries([]entry{
		{name: "etc/istio/", mode: 0o755},
		{name: "etc/istio/proxy/", mode: 0o755, uid: istioUser},
		{name: "var/lib/", mode: 0o755},
		{name: "var/lib/istio/", mode: 0o755},
		{name: "var/lib/istio/data/", mode: 0o755, uid: istioUser},
		{name: "var/lib/istio/envoy/", mode: 0o755, uid: istioUser},
	})
}}

// parents are the directories above a place, outermost first.
func parents(at string) []entry {
	var dirs []entry
	for d := path.Dir(at); d != "."; d = path.Dir(d) {
		dirs = append(dirs, entry{name: d + "/", mode: 0o755})
	}
	slices.Reverse(dirs)
	return dirs
}
