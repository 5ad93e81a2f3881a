{{/* The name of everything: the release's, with deploy-worker in it. */}}
{{- define "deploy-worker.name" -}}
{{- if contains "deploy-worker" .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-deploy-worker" (.Release.Name | trunc 32 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* What the Deployment, the Service and the policies select by. */}}
{{- define "deploy-worker.selector" -}}
app.kubernetes.io/name: deploy-worker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "deploy-worker.labels" -}}
{{ include "deploy-worker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "deploy-worker.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Where the Secrets are mounted as files. */}}
{{- define "deploy-worker.secrets" -}}/etc/deploy-worker/secrets{{- end -}}
