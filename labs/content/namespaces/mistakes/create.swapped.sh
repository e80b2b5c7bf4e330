kubectl create namespace team-a
kubectl create namespace team-b
kubectl label namespace team-a team=b
kubectl label namespace team-b team=a
