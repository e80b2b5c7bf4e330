// Command ropes-app is what runs inside the learner's pods: the sample apps and a
// toolbox, in one small program. It knows HTTP, TCP, TLS and DNS. It does not know
// Kubernetes or Istio: a pod's names reach it through environment variables.
//
// It picks what to be by the base name of argv[0], else by its first argument:
// `curl ...` through a symlink and `ropes-app curl ...` are the same. In the image
// ropes.local/app:v1 every name below is a symlink in /usr/bin (and /bin is /usr/bin),
// so a pod writes `command: ["reviews"]` or `command: ["sh", "-c", "..."]`. The
// image's entrypoint is ropes-app, so `args: ["httpbin"]` does as well. The image has
// no USER (root); every server also runs as any other user with a read-only root.
//
// # Servers
//
// All end with status 0 within seconds of SIGTERM or SIGINT, finishing the requests in
// flight. All of them speak HTTP/1.1 and cleartext HTTP/2 (prior knowledge) on their
// HTTP ports.
//
//	productpage [--listen :9080]   GET /productpage?u=normal|test (HTML), / (HTML), /api/v1/products,
//	                               /api/v1/products/{id}, .../{id}/reviews, .../{id}/ratings, /health,
//	                               POST /login (username, passwd), GET /logout, /static/
//	details     [--listen :9080]   GET /details/{id}, /health
//	reviews     [--listen :9080]   GET /reviews/{id}, /health
//	ratings     [--listen :9080]   GET and POST /ratings/{id}, /health
//	httpbin     [--listen :8080]   everything go-httpbin serves (/get /headers /status/{code} /delay/{n} ...)
//	outside     [--http :8080] [--https :8443] [--tcp :9000] [--name DNSNAME,...] [--tls-cert FILE --tls-key FILE]
//	serve       [--listen :8080] [--dir DIR] [--tcp ADDR,...] [--tls-cert FILE --tls-key FILE --listen-tls ADDR] [--control ADDR]
//	relay       [--listen :7000]   makes requests from its pod as it is told, for tests
//
// Address flags of outside and serve take a comma-separated list; an empty value turns that
// listener off.
//
// Bookinfo reads these variables:
//
//	SERVICE_VERSION      v1, v2, v3: reviews v1 asks no ratings and has no stars, v2 black, v3 red.
//	                     ratings: v1; v-faulty fails half of its requests with 503, v-delayed answers half of
//	                     them after 7 s, v-unavailable turns to 503 for one minute in every two,
//	                     v-unhealthy does so in every 15 minutes and its /health says so too
//	SERVICES_DOMAIN      appended to the host names, e.g. bookinfo.svc.cluster.local
//	DETAILS_HOSTNAME     host of details (default details); also REVIEWS_HOSTNAME, RATINGS_HOSTNAME, and
//	                     *_SERVICE_PORT (default 9080) for each
//	ENABLE_RATINGS, STAR_COLOR  override what reviews takes from SERVICE_VERSION
//	HOSTNAME             the pod's name in reviews' answer ("podname"); CLUSTER_NAME is its "clustername"
//
// productpage waits 3 s for each service and asks reviews twice; reviews waits 10 s for ratings as v2 and 2.5 s as v3.
//
// Request headers handed on from hop to hop: end-user, user-agent, cookie, authorization, jwt, and those of
// tracing (x-request-id, x-b3-*, b3, traceparent, tracestate, x-cloud-trace-context,
// grpc-trace-bin, x-ot-span-context, x-datadog-*, sw8). The signed-in user is in the cookie `session` and travels as
// header end-user.
//
// outside answers every HTTP request with JSON {"beyond":"the mesh","message",...,"method","host","path",
// "query","proto","headers","body","tls","remote","hostname"}; on --https its certificate is made at start and signed by
// itself (CN and SANs from --name, default outside and its names under outside.svc.cluster.local); on --tcp it returns
// what it is sent, after a first line `outside: beyond the mesh`.
//
// serve answers with the same echo as JSON on every path but: /hostname (text), /health (200), /status/{code}, /delay/{duration},
// /file/PATH (GET, PUT and DELETE of a file below --dir), and /version (text of SERVICE_VERSION). --tcp returns what it is sent.
// gRPC requests get their messages back, with x-grpc-status as the status in the trailers. --control ADDR takes a script at /script: PUT a JSON
// list of rules ({"Contains", "Times", "Status", "Headers", "Trailers", "Body" (base64), "DelayMS", "Reset"}), whose answers go before all
// others; GET says what was heard since; DELETE ends the script.
//
// relay takes JSON: POST /fetch {"URL", "Method", "Host", "Headers", "Body", "Address", "HTTP2", "TimeoutMS", "TLS": {"ServerName", "CA", "Cert",
// "Key", "ALPN"}} makes one request on a connection of its own; POST /raw {"Address", "Secure", "TLS", "Send", "Then", "Want", "WaitMS"} exchanges bytes;
// POST /load {"Orders", "Rate", "Count"} sends a steady stream of requests over kept-alive connections and counts failures. Bytes are base64.
//
// # Toolbox
//
//	curl dig nc sh tar test [                             (see below)
//	cat chmod cp cut date df echo env false grep head hostname id kill ls mkdir mv ps rm seq sha256sum sleep sort tail
//	tee touch tr true uniq wc
//
// They take the common POSIX flags; an unknown flag is a usage error, status 2. `sleep` takes 10, 1.5, 10s, 2m, 1h, 1d and infinity.
//
// curl knows: -s -S -v -i -I -o -O -D -w -H -X -d --data-raw --data-binary --data-urlencode -G --json -F -T -r -k --cacert --cert --key --resolve
// --connect-to --connect-timeout -m/--max-time -L --max-redirs -u --oauth2-bearer -A -e -b (NAME=VALUE) --http1.1 --http2 --http2-prior-knowledge
// --tls-max --tlsv1.2 --tlsv1.3 -f --fail-with-body --retry --retry-delay --retry-all-errors --retry-connrefused --compressed --path-as-is
// -4 -6 -N -V --unix-socket --url. All others are refused by name with status 2. Schemes http, https and telnet (raw TCP).
// -w variables: http_code response_code http_version num_connects num_redirects redirect_url remote_ip remote_port local_ip local_port
// size_download size_upload time_total time_connect time_appconnect time_namelookup time_pretransfer time_starttransfer url url_effective
// method scheme content_type num_headers ssl_verify_result exitcode errormsg header_json stdout stderr, and %header{NAME}; escapes \n \t \r.
// A server that asks for a client certificate under TLS 1.3 and gets none gives 56, or 55 where it hung up early. There is no progress meter. HTTP/1 heads are shown as they came (order, letter case); HTTP/2's in lower case, sorted.
// Exit codes are curl's: 1 2 3 6 7 16 18 22 23 26 28 35 47 52 55 56 58 60 77 92.
//
// dig knows: @server -t -p -x -4 -6 -f (no), names and types in any order, +short +search +nosearch +tcp +time= +tries= +retry= +noall +answer
// +stats +comments +question +authority +additional +ndots= +domain= +nocomments etc. Exit codes: 0 an answer came (also NXDOMAIN), 1 usage, 9 no server answered, 10 internal.
//
// nc knows: -z -v -w SECONDS -l -p -u -n -k -4 -6 -N -q SECONDS -U. The end of its input always closes the sending half, as -N asks for. Exit codes: 0, 1 (could not connect, timeout), 2 usage.
//
// tar knows: c x t -f -C -v -z -m -p --no-same-permissions --same-owner --no-same-owner, letters without a dash in the first word too, and
// works for kubectl cp both ways. As root it keeps owners (by number) and modes. What leads out of the directory when unpacking - a
// name, a way through a symbolic link, a link's target - is left out and told, status 1. Devices and pipes are not unpacked; second names
// of a file are packed as files of their own.
//
// test and [ are the shell's own, for those who start them without a shell.
//
// sh is mvdan.cc/sh: POSIX sh (and most of bash's words), `sh -c SCRIPT [NAME ARGS...]`, `sh FILE [ARGS...]`, script on stdin, or
// interactive with editing and history when stdin is a terminal. -e -u -x -n -f -a -o OPTION -i are known. Toolbox words run inside the shell's
// own process. No job control: `&` and `wait` work, but $! is not a process number, and what runs in the background ends with the shell. trap
// knows EXIT and ERR only; umask and ulimit are refused by name. There is no sed, awk or xargs.
package main
