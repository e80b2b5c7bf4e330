kubectl -n mtls-app delete destinationrule billing --ignore-not-found
