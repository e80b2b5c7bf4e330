kubectl -n mtls-app patch peerauthentication default --type merge -p '{"spec":{"mtls":{"mode":"STRICT"}}}'
