// Package existing is the provider of clusters that somebody else runs: it takes a context of the learner's kubeconfig,
// finds out whether labs can run there without harm, and remembers which cluster it was. It makes nothing in the cluster
// and removes nothing from it: that is done by whoever installs the mesh and the samples, and by the labs' reset.
//
// It knows what the rest of ropes will want: rights, room, names of namespaces, an Istio that is not somebody else's.
// It does not know how the mesh, the samples or labs are installed.
package existing
