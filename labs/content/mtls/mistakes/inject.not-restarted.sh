kubectl label --overwrite namespace mtls-app istio-injection=enabled
