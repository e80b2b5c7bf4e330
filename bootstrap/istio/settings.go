// Package istio installs, inspects and removes the mesh of a lab cluster: istiod, an
// ingress and an egress gateway, rendered and applied by Istio's own operator library
// from the charts that the library embeds. It knows which settings a lab wants. It does
// not know where the cluster comes from, which proxy the proxyv2 image holds, or what
// the labs do with the mesh.
package istio

import (
	"cmp"
	"log/slog"

	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

// Names of what is installed.
const (
	SystemNamespace  = "istio-system"
	IngressNamespace = "istio-ingress"
	EgressNamespace  = "istio-egress"

	istiod         = "istiod"
	ingressGateway = "istio-ingressgateway"
	egressGateway  = "istio-egressgateway"

	// owner is the name of our IstioOperator. The operator labels all it applies with it.
	owner = "ropes"
)

// Config says what to install and where.
type Config struct {
	Kubeconfig []byte // self-contained; its current context is the cluster
	Hub, Tag   string // of the images pilot and proxyv2; default ropes.local/istio and 1.31
	// Ports on every node at which the ingress gateway is reached; default 30080 and 30443.
	HTTPNodePort, HTTPSNodePort int
	// Owner is the cluster of ropes that this mesh belongs to: the value of
	// bootstrap.ClusterLabel on the namespaces that Install makes. Empty labels none.
	Owner string
	// Private keeps the ingress gateway from taking ports of nodes.
	Private bool
	Log     *slog.Logger // what the operator says; nil discards it
}

func (c Config) withDefaults() Config {
	c.Hub = cmp.Or(c.Hub, "ropes.local/istio")
	c.Tag = cmp.Or(c.Tag, "1.31")
	c.HTTPNodePort = cmp.Or(c.HTTPNodePort, 30080)
	c.HTTPSNodePort = cmp.Or(c.HTTPSNodePort, 30443)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Namespaces are those that Install puts objects into.
func Namespaces() []string { return []string{SystemNamespace, IngressNamespace, EgressNamespace} }

// deployments are what an installation consists of, istiod first.
func deployments() []rollout.Deployment {
	return []rollout.Deployment{
		{Namespace: SystemNamespace, Name: istiod},
		{Namespace: IngressNamespace, Name: ingressGateway},
		{Namespace: EgressNamespace, Name: egressGateway},
	}
}

type object = map[string]any

// operator is the IstioOperator that is asked for: the profile `default` with an egress
// gateway, gateways in namespaces of their own, and sizes for a machine of two cores.
func (c Config) operator() object {
	return object{
		"apiVersion": "install.istio.io/v1alpha1",
		"kind":       "IstioOperator",
		"metadata":   object{"name": owner, "namespace": SystemNamespace},
		"spec": object{
			"profile":    "default",
			"hub":        c.Hub,
			"tag":        c.Tag,
			"meshConfig": meshConfig(),
			"components": object{
				"pilot":           object{"k8s": object{"overlays": startup(istiod, "discovery", "/ready", 8080)}},
				"ingressGateways": []any{c.ingress()},
				"egressGateways":  []any{c.egress()},
			},
			"values": object{
				"global": object{
					"imagePullPolicy": "IfNotPresent",
					// One replica of each: a budget would only keep a node from being drained.
					"defaultPodDisruptionBudget": object{"enabled": false},
					"proxy":                      object{"resources": requests("10m", "40Mi")},
				},
				"pilot": object{
					"autoscaleEnabled": false,
					"replicaCount":     1,
					"resources":        requests("100m", "128Mi"),
				},
				"gateways": object{ingressGateway: object{"autoscaleEnabled": false}, egressGateway: object{"autoscaleEnabled": false}},
			},
		},
	}
}

func meshConfig() object {
	return object{
		"accessLogFile":         "/dev/stdout",
		"outboundTrafficPolicy": object{"mode": "ALLOW_ANY"},
		// No tracer is installed. A Telemetry resource that names a provider still turns tracing on.
		"enableTracing": false,
		"defaultConfig": object{
			"holdApplicationUntilProxyStarts": true,
			// Nobody's requests are lost in a lab; a learner waits for every pod that ends.
			"terminationDrainDuration": "1s",
		},
	}
}

func (c Config) ingress() object {
	kind := "NodePort"
	ports := []any{
		object{"name": "status-port", "port": 15021, "targetPort": 15021, "protocol": "TCP"},
		object{"name": "http2", "port": 80, "targetPort": 8080, "nodePort": c.HTTPNodePort, "protocol": "TCP"},
		object{"name": "https", "port": 443, "targetPort": 8443, "nodePort": c.HTTPSNodePort, "protocol": "TCP"},
	}
	if c.Private {
		kind = "ClusterIP"
		for _, p := range ports {
			delete(p.(object), "nodePort")
		}
	}
	return object{
		"name":      ingressGateway,
		"namespace": IngressNamespace,
		"enabled":   true,
		"k8s": object{
			"resources": requests("10m", "40Mi"),
			"service": object{
				"type":  kind,
				"ports": ports,
			},
			"readinessProbe": object{"periodSeconds": readinessPeriod},
			"overlays":       startup(ingressGateway, "istio-proxy", "/healthz/ready", 15021),
		},
	}
}

func (c Config) egress() object {
	return object{
		"name":      egressGateway,
		"namespace": EgressNamespace,
		"enabled":   true,
		"k8s": object{
			"resources":      requests("10m", "40Mi"),
			"readinessProbe": object{"periodSeconds": readinessPeriod},
			"overlays":       startup(egressGateway, "istio-proxy", "/healthz/ready", 15021),
		},
	}
}

// readinessPeriod is how often a gateway that has started is asked whether it is ready, in seconds.
const readinessPeriod = 10

// requests asks for little and limits nothing: not every machine that runs labs has a
// kernel that can limit CPU time, and null takes back the charts' limits.
func requests(cpu, memory string) object {
	return object{"requests": object{"cpu": cpu, "memory": memory}, "limits": nil}
}

// startup lets a container be seen ready within a second of being so, while its readiness
// probe, which lasts as long as the pod does, stays slow.
func startup(deployment, container, path string, port int) []any {
	return []any{object{
		"kind": "Deployment",
		"name": deployment,
		"patches": []any{object{
			"path": "spec.template.spec.containers.[name:" + container + "].startupProbe",
			"value": object{
				"httpGet":          object{"path": path, "port": port},
				"periodSeconds":    1,
				"failureThreshold": 600,
			},
		}},
	}}
}
