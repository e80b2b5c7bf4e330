//go:build !linux

package main

import "github.com/ropes-dev/ropes/cmd/internal/command"

func addProviders(d *command.Deps) {
	d.Absent["embedded"] = "it needs Linux"
}
