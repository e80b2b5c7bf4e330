kubectl create namespace team-a
kubectl create namespace team-b
kubectl annotate namespace team-a team=a
kubectl annotate namespace team-b team=b
