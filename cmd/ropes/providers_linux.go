package main

import (
	"context"
	"os"

	"github.com/ropes-dev/ropes/bootstrap/embedded"
	"github.com/ropes-dev/ropes/bootstrap/payload"
	"github.com/ropes-dev/ropes/cmd/internal/command"
)

func addProviders(d *command.Deps) {
	p := embedded.New(embedded.Options{
		Log: d.Log,
		Payload: func(ctx context.Context, say func(string)) (string, error) {
			return payload.Open(ctx, command.CacheDir(os.Getenv), say)
		},
	})
	d.Providers = append(d.Providers, p)
	d.Logs = append(d.Logs.(logSources), p)
}
