// Package deps keeps in go.mod what no package of ours imports: the programs that the
// payload takes straight from their modules, and modules of the issues to come, whose
// arrival must not move the versions that build together. The list
// itself is never compiled.
package deps
