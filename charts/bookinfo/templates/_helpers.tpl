{{/* Labels of every object. */}}
{{- define "bookinfo.labels" -}}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Labels that tell pods of one service and version from others. Takes a service and a version. */}}
{{- define "bookinfo.selector" -}}
app: {{ .service }}
version: {{ .version }}
{{- end -}}
