//go:build !unix

package bootstrap

import "os"

// keepOwner does nothing where files have no owner in the way of Unix.
func keepOwner(*os.File, string) {}
