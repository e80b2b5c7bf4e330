// Package loadbalancer gives the Services of type LoadBalancer of an embedded cluster
// their addresses, as a cloud's controller does: it hands out addresses of one range, says
// so in the Service's status, where every node's kube-proxy finds them, and leads each to
// one node.
//
// Address of a Service: the one it has, else spec.loadBalancerIP where that is free, else
// the next free one of the range, round about, so that one just given back rests a while.
// Node of an address: with externalTrafficPolicy Local one that runs a ready endpoint, else
// any; a node that is Ready and not kept out of load balancing by label goes before others,
// and a good choice is kept. Services of a loadBalancerClass are somebody else's.
//
// It knows Services, EndpointSlices and Nodes; it does not know how an address is led to a
// node: that is a Router's.
package loadbalancer
