{{- define "sdp.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sdp.fullname" -}}
{{- $name := include "sdp.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sdp.selector" -}}
app.kubernetes.io/name: {{ include "sdp.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- /* The labels and annotations of an object. Takes a dict with root, and optionally labels and annotations of that object. */}}
{{- define "sdp.metadata" -}}
labels:
  {{- include "sdp.selector" .root | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
  {{- with merge dict (.labels | default dict) (.root.Values.commonLabels | default dict) }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge dict (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "sdp.serviceAccountName" -}}
{{- with .Values.serviceAccount }}
{{- .name | default (ternary (include "sdp.fullname" $) "default" .create) }}
{{- end }}
{{- end }}

{{- define "sdp.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* Always select Linux: a pod on a Windows node would never start, and would block every rollout. */}}
{{- define "sdp.nodeSelector" -}}
{{- mergeOverwrite dict (. | default dict) (dict "kubernetes.io/os" "linux") | toYaml }}
{{- end }}

{{- /* Fails if HTTP is off, which a value requires. Takes a dict with root and value. */}}
{{- define "sdp.requireHttp" -}}
{{- if not .root.Values.httpPort }}
{{- fail (printf "%s requires an httpPort other than 0" .value) }}
{{- end }}
{{- end }}
