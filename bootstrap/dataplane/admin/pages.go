package admin

import (
	"fmt"
	"html"
	"net/http"
	"strings"
)

// page is one path of the admin port, for the help and the home page.
type page struct {
	path, about string
	post        bool
	handle      http.HandlerFunc
}

func (s *Server) pages() []page {
	text := func(t string) http.HandlerFunc { return func(w http.ResponseWriter, _ *http.Request) { say(w, t) } }
	do := func(fn func()) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fn(); say(w, "OK\n") }
	}
	return []page{
		{"/certs", "print certs on machine", false, s.certs},
		{"/clusters", "upstream cluster status", false, s.clusters},
		{"/config_dump", "dump current Envoy configs", false, s.configDump},
		{"/contention", "dump current Envoy mutex contention stats (not kept)", false, text("Mutex contention tracing is not enabled.\n")},
		{"/drain_listeners", "drain listeners", true, s.drain},
		{"/healthcheck/fail", "cause the server to fail health checks", true, do(func() { s.cfg.Fail(true) })},
		{"/healthcheck/ok", "cause the server to pass health checks", true, do(func() { s.cfg.Fail(false) })},
		{"/help", "print out list of admin commands", false, s.help},
		{"/hot_restart_version", "print the hot restart compatibility version", false, text("disabled")},
		{"/init_dump", "dump current Envoy init manager information", false, s.initDump},
		{"/listeners", "print listener info", false, s.listeners},
		{"/logging", "query/change logging levels", true, s.logging},
		{"/memory", "print current allocation/heap usage", false, s.memory},
		{"/quitquitquit", "exit the server", true, do(func() { s.cfg.Quit() })},
		{"/ready", "print server state, return 200 if LIVE, otherwise return 503", false, s.ready},
		{"/reset_counters", "reset all counters to zero", true, do(func() { s.cfg.Stats.Reset() })},
		{"/runtime", "print runtime values", false, s.runtime},
		{"/server_info", "print server version/status information", false, s.serverInfo},
		{"/stats", "print server stats", false, s.stats},
		{"/stats/prometheus", "print server stats in prometheus format", false, s.prometheus},
	}
}

func (s *Server) help(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	b.WriteString("admin commands are:\n  /: Admin home page\n")
	for _, p := range s.pages() {
		fmt.Fprintf(&b, "  %s%s: %s\n", p.path, map[bool]string{true: " (POST)"}[p.post], p.about)
	}
	say(w, b.String())
}

// home is the page that istioctl dashboard envoy opens.
func (s *Server) home(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n<title>Envoy Admin</title>\n<h1>Envoy Admin</h1>\n<p>" + html.EscapeString(s.cfg.Version) + "</p>\n<table>\n")
	for _, p := range s.pages() {
		link := `<a href="` + p.path[1:] + `">` + p.path[1:] + "</a>"
		if p.post {
			link = `<form action="` + p.path[1:] + `" method="post"><button>` + p.path[1:] + "</button></form>"
		}
		fmt.Fprintf(&b, "<tr><td>%s</td><td>%s</td></tr>\n", link, html.EscapeString(p.about))
	}
	b.WriteString("</table>\n")
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(b.String()))
}

// initDump names what the start still waits for.
func (s *Server) initDump(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	b.WriteString("{\n \"unready_targets_dumps\": [")
	for i, l := range s.cfg.Listeners.Warming() {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n  {\"name\": %q, \"target_names\": [\"routes and secrets\"]}", "init manager of listener "+l.Name)
	}
	b.WriteString("\n ]\n}\n")
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(b.String()))
}
