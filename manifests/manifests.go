// Package manifests holds the manifests of the add-ons and the templates of
// configurations that are YAML. It knows nothing about them but their bytes.
package manifests

import "embed"

// FS holds the manifests of the add-ons, one file for each, in the order of their names
// the one in which they can be applied.
//
//go:embed *.yaml
var FS embed.FS

// KindCluster is the template of a kind cluster's configuration.
//
//go:embed kind/cluster.yaml.tmpl
var KindCluster string
