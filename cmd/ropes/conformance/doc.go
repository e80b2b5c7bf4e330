// Package conformance runs the Gateway API's own conformance suite, of the version that
// Istio builds with, against a cluster of the embedded provider: istiod as the
// implementation, the built-in data plane as its gateways. Under the build tag conformance it
// needs root and a binary with its payload, named by ROPES_BIN; without either it fails and
// says so. exceptions.yaml lists what it leaves out and why.
package conformance
