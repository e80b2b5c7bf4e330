// Package manifests holds the manifests of the embedded provider's add-ons. It knows
// nothing about them but their bytes.
package manifests

import "embed"

// FS holds the manifests, one file for each add-on, in the order of their names the
// one in which they can be applied.
//
//go:embed *.yaml
var FS embed.FS
