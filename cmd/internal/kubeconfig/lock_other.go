//go:build !unix

package kubeconfig

// alive cannot be told here; a lock then counts as an orphan by its age only.
func alive(int) bool { return true }
