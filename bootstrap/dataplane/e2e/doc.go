// Package e2e holds tests that run the data plane as in a pod: processes of their own in network namespaces, traffic
// redirected by nftables, configuration from istiod's own generators. It has no code outside tests.
package e2e
