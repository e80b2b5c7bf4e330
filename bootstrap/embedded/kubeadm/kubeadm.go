// Package kubeadm turns a cluster's plan into what kubeadm would have made of it: PKI,
// kubeconfigs, static-pod manifests, kubelet configuration and, once the API server
// answers, the add-ons. All of it comes from kubeadm's own packages; this package knows
// only which settings to give them.
package kubeadm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/template"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	kubeadmapi "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/constants"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/addons/dns"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/addons/proxy"
	bootstrapnode "k8s.io/kubernetes/cmd/kubeadm/app/phases/bootstraptoken/node"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/certs"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/controlplane"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/etcd"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/kubeconfig"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/kubelet"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/markcontrolplane"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/uploadconfig"
	configutil "k8s.io/kubernetes/cmd/kubeadm/app/util/config"

	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
)

// KubernetesVersion is the version of the components that the payload carries.
const KubernetesVersion = "v1.36.3"

// PauseImage is the image of a pod's sandbox, as kubeadm names it.
const PauseImage = "registry.k8s.io/pause:" + constants.PauseVersion

// apiPort is where the API server listens on its node.
const apiPort = 6443

// criSocket is where containerd listens on every node.
const criSocket = "unix:///run/containerd/containerd.sock"

// pkiDir is where the control-plane node sees its certificates.
const pkiDir = "/etc/kubernetes/pki"

// config is what kubeadm is told. Kubelet's failCgroupV1 lets it run on hosts of both
// cgroup versions; protectKernelDefaults stays off as on kind.
var config = template.Must(template.New("kubeadm").Parse(`
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint:
  advertiseAddress: {{.Node.IP}}
  bindPort: {{.APIPort}}
nodeRegistration:
  name: {{.Node.Name}}
  criSocket: {{.CRISocket}}
  kubeletExtraArgs:
  - {name: node-ip, value: {{.Node.IP}}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
clusterName: {{.Cluster.Name}}
kubernetesVersion: {{.Version}}
controlPlaneEndpoint: {{.ControlPlane.IP}}:{{.APIPort}}
certificatesDir: {{.PKI}}
encryptionAlgorithm: ECDSA-P256
networking:
  podSubnet: {{.Cluster.PodSubnet}}
  serviceSubnet: {{.Cluster.ServiceSubnet}}
apiServer:
  certSANs: [localhost, 127.0.0.1, {{.ControlPlane.IP}}]
  extraArgs:
  - {name: kubelet-preferred-address-types, value: InternalIP}
controllerManager:
  extraArgs:
  # The plan gives each node its pod addresses, see supervisor.
  - {name: allocate-node-cidrs, value: "false"}
  - {name: leader-elect, value: "false"}
scheduler:
  extraArgs:
  - {name: leader-elect, value: "false"}
etcd:
  local:
    extraArgs:
    # A lab's data outlives killed processes; it need not outlive a power cut.
    - {name: unsafe-no-fsync, value: "true"}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: {{.CRISocket}}
imageGCHighThresholdPercent: 100
evictionHard:
  nodefs.available: "1%"
  imagefs.available: "1%"
  nodefs.inodesFree: "1%"
maxPods: 250
serializeImagePulls: false
shutdownGracePeriod: 0s
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
`))

// load gives kubeadm's configuration of one node, with certificates in pki.
func load(c *state.Config, n state.Node, pki string) (*kubeadmapi.InitConfiguration, error) {
	var b bytes.Buffer
	err := config.Execute(&b, map[string]any{
		"Cluster": c, "Node": n, "ControlPlane": c.ControlPlane(),
		"PKI": pki, "APIPort": apiPort, "Version": KubernetesVersion, "CRISocket": criSocket,
	})
	if err != nil {
		return nil, err
	}
	return configutil.BytesToInitConfiguration(b.Bytes(), true)
}

// Prepare writes everything that the nodes need before their first start: PKI and
// manifests of the control plane, kubeconfig and configuration of each kubelet, and the
// learner's kubeconfig. What is there already is kept.
func Prepare(c *state.Config, dir state.Dir) error {
	cp := c.ControlPlane()
	etc := filepath.Join(dir.NodeEtc(cp.Name), "kubernetes")
	host, err := load(c, cp, filepath.Join(etc, "pki"))
	if err != nil {
		return err
	}
	if err := certs.CreatePKIAssets(host); err != nil {
		return fmt.Errorf("create PKI: %w", err)
	}
	for _, name := range []string{
		constants.AdminKubeConfigFileName, constants.SuperAdminKubeConfigFileName,
		constants.ControllerManagerKubeConfigFileName, constants.SchedulerKubeConfigFileName,
	} {
		if err := kubeconfig.CreateKubeConfigFile(name, etc, host); err != nil {
			return err
		}
	}
	if err := manifests(c, filepath.Join(etc, constants.ManifestsSubDirName)); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := prepareKubelet(c, dir, n, filepath.Join(etc, "pki")); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return learnerKubeconfig(c, dir, filepath.Join(etc, constants.AdminKubeConfigFileName))
}

func manifests(c *state.Config, dir string) error {
	node, err := load(c, c.ControlPlane(), pkiDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	err = etcd.CreateLocalEtcdStaticPodManifestFile(dir, "", node.NodeRegistration.Name, &node.ClusterConfiguration, &node.LocalAPIEndpoint, false)
	if err != nil {
		return err
	}
	return controlplane.CreateInitStaticPodManifestFiles(dir, "", node, false)
}

func prepareKubelet(c *state.Config, dir state.Dir, n state.Node, pki string) error {
	cfg, err := load(c, n, pki)
	if err != nil {
		return err
	}
	etc := filepath.Join(dir.NodeEtc(n.Name), "kubernetes")
	if err := kubeconfig.CreateKubeConfigFile(constants.KubeletKubeConfigFileName, etc, cfg); err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(pki, constants.CACertName))
	if err != nil {
		return err
	}
	if err := state.WriteFile(filepath.Join(etc, "pki", constants.CACertName), ca, 0o644); err != nil {
		return err
	}
	inNode, err := load(c, n, pkiDir)
	if err != nil {
		return err
	}
	lib := filepath.Join(dir.NodeVar(n.Name), "lib/kubelet")
	if err := os.MkdirAll(lib, 0o755); err != nil {
		return err
	}
	instance := &kubeletconfig.KubeletConfiguration{ContainerRuntimeEndpoint: criSocket}
	if err := kubelet.WriteInstanceConfigToDisk(instance, lib); err != nil {
		return err
	}
	return kubelet.WriteConfigToDisk(&inNode.ClusterConfiguration, lib, "", io.Discard)
}

// learnerKubeconfig writes the admin's kubeconfig with the address published on the
// host's loopback and the context called ropes-NAME.
func learnerKubeconfig(c *state.Config, dir state.Dir, admin string) error {
	conf, err := clientcmd.LoadFromFile(admin)
	if err != nil {
		return err
	}
	name := "ropes-" + c.Name
	current := conf.Contexts[conf.CurrentContext]
	cluster, user := conf.Clusters[current.Cluster], conf.AuthInfos[current.AuthInfo]
	cluster.Server = fmt.Sprintf("https://127.0.0.1:%d", c.APIPort)
	out := *conf
	out.Clusters = map[string]*clientcmdapi.Cluster{name: cluster}
	out.AuthInfos = map[string]*clientcmdapi.AuthInfo{name: user}
	out.Contexts = map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}}
	out.CurrentContext = name
	data, err := clientcmd.Write(out)
	if err != nil {
		return err
	}
	return state.WriteFile(dir.Kubeconfig(), data, 0o600)
}

// Client connects to the API server from within the cluster's network as the
// certificate authority's super admin, who needs no RBAC.
func Client(c *state.Config, dir state.Dir) (clientset.Interface, error) {
	path := filepath.Join(dir.NodeEtc(c.ControlPlane().Name), "kubernetes", constants.SuperAdminKubeConfigFileName)
	rc, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	rc.QPS, rc.Burst, rc.Timeout = 100, 200, 30*time.Second
	return clientset.NewForConfig(rc)
}

// Addons does what kubeadm init does once the API server answers: rights of the admin,
// the uploaded configuration, the control plane's label and taint, CoreDNS, kube-proxy.
// It can be repeated.
func Addons(ctx context.Context, c *state.Config, client clientset.Interface) error {
	cfg, err := load(c, c.ControlPlane(), pkiDir)
	if err != nil {
		return err
	}
	if err := ensureAdmins(ctx, client); err != nil {
		return err
	}
	if err := bootstrapnode.AllowAPIServerToAccessKubeletAPI(client); err != nil {
		return fmt.Errorf("let the API server reach the kubelets: %w", err)
	}
	if err := uploadconfig.UploadConfiguration(cfg, client); err != nil {
		return fmt.Errorf("upload kubeadm configuration: %w", err)
	}
	if err := kubelet.CreateConfigMap(&cfg.ClusterConfiguration, client); err != nil {
		return fmt.Errorf("upload kubelet configuration: %w", err)
	}
	if err := proxy.EnsureProxyAddon(&cfg.ClusterConfiguration, &cfg.LocalAPIEndpoint, client, io.Discard, false); err != nil {
		return fmt.Errorf("kube-proxy: %w", err)
	}
	if err := dns.EnsureDNSAddon(&cfg.ClusterConfiguration, client, "", io.Discard, false); err != nil {
		return fmt.Errorf("CoreDNS: %w", err)
	}
	return nil
}

// MarkControlPlane labels and taints the control-plane node, which must be registered.
func MarkControlPlane(c *state.Config, client clientset.Interface) error {
	cfg, err := load(c, c.ControlPlane(), pkiDir)
	if err != nil {
		return err
	}
	return markcontrolplane.MarkControlPlane(client, cfg.NodeRegistration.Name, cfg.NodeRegistration.Taints)
}

// ensureAdmins binds the group of admin.conf to cluster-admin.
func ensureAdmins(ctx context.Context, client clientset.Interface) error {
	_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: constants.ClusterAdminsGroupAndClusterRoleBinding},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: constants.ClusterAdminsGroupAndClusterRoleBinding}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("bind admins: %w", err)
	}
	return nil
}
