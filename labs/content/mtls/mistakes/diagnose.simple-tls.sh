kubectl -n mtls-app patch destinationrule billing --type merge -p '{"spec":{"trafficPolicy":{"tls":{"mode":"SIMPLE"}}}}'
