kubectl create namespace team-a
kubectl label namespace team-a team=a
