{{- /* The variable of each key of a resource. */}}
{{- define "sdp.variableOf" -}}
name: RESOURCE_NAME
devices: NUMBER_DEVICES
deviceIdPrefix: DEVICE_ID_PREFIX
pluginName: PLUGIN_NAME
numaNodes: NUMA_NODES
preferredAllocation: PREFERRED_ALLOCATION
envPrefix: ENV_PREFIX
annotationPrefix: ANNOTATION_PREFIX
deviceFilePrefix: DEVICE_FILE_PREFIX
deviceFileHostPath: DEVICE_FILE_HOST_PATH
{{- end }}

{{- /* The variables of one resource, or of one node's overrides of it: dict resource, suffix. */}}
{{- define "sdp.resourceVariables" -}}
{{- $variableOf := include "sdp.variableOf" . | fromYaml }}
{{- range $key, $value := .resource }}
- name: {{ printf "%s_%s" (get $variableOf $key) $.suffix | quote }}
  {{- if kindIs "slice" $value }}
  value: {{ join "+" $value | quote }}
  {{- else if kindIs "float64" $value }}
  value: {{ int64 $value | toString | quote }}
  {{- else }}
  value: {{ toString $value | replace "$" "$$" | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* All variables that the values make. */}}
{{- define "sdp.variables" -}}
{{- if .Values.config }}
- name: CONFIG_FILE
  value: /etc/simple-device-plugin/config.yaml
{{- with .Values.allowedHostPaths }}
- name: ALLOWED_HOST_PATHS
  value: {{ join "," . | replace "$" "$$" | quote }}
{{- end }}
{{- else }}
{{- include "sdp.pluginName" . }}
{{- include "sdp.variablesOfResources" . }}
{{- end }}
{{- end }}

{{- define "sdp.variablesOfResources" -}}
{{- $indexes := dict }}
{{- range $index, $resource := .Values.resources }}
{{- if hasKey $indexes $resource.name }}
{{- fail (printf "resources: %s is there twice" $resource.name) }}
{{- end }}
{{- $_ := set $indexes $resource.name (toString $index) }}
{{- include "sdp.resourceVariables" (dict "resource" $resource "suffix" (toString $index)) }}
{{- end }}
{{- range $node, $overrides := .Values.nodeOverrides }}
{{- range $name, $override := $overrides }}
{{- if not (hasKey $indexes $name) }}
{{- fail (printf "nodeOverrides.%s: %s is not among the resources (%s)" $node $name (keys $indexes | sortAlpha | join ", ")) }}
{{- end }}
{{- $suffix := printf "%s.%s" (get $indexes $name) $node }}
{{- include "sdp.resourceVariables" (dict "resource" $override "suffix" $suffix) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A variable of a resource beside resources would be outvoted by them, silently; but one PLUGIN_NAME can serve all. */}}
{{- define "sdp.checkExtraEnv" -}}
{{- if and .Values.config .Values.nodeOverrides }}
{{- fail "nodeOverrides: with config they belong into its nodes" }}
{{- end }}
{{- $ours := include "sdp.variableOf" . | fromYaml | values | join "|" }}
{{- $own := "NAMESPACE NODE_NAME DEVICE_PLUGIN_PATH CONFIG_FILE ALLOWED_HOST_PATHS RUST_LOG LOG_FORMAT HTTP_ADDRESS CONTROL_SOCKET POD_RESOURCES_SOCKET" }}
{{- range .Values.extraEnv }}
{{- $isOurs := regexMatch (printf "^(%s)(_[0-9]+)?([.].*)?$" $ours) .name }}
{{- if and $.Values.config $isOurs }}
{{- fail (printf "extraEnv: %s belongs into config" .name) }}
{{- end }}
{{- if and $.Values.resources $isOurs (ne .name "PLUGIN_NAME") }}
{{- fail (printf "extraEnv: %s belongs into resources or nodeOverrides; or say resources: [] (--set resources=null)" .name) }}
{{- end }}
{{- if has .name (splitList " " $own) }}
{{- fail (printf "extraEnv: %s is the chart's own" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Releases that meet on a node have sockets of their own, unless extraEnv names one. */}}
{{- define "sdp.pluginName" -}}
{{- $given := false }}
{{- range .Values.extraEnv }}
{{- if eq .name "PLUGIN_NAME" }}
{{- $given = true }}
{{- end }}
{{- end }}
{{- if not $given }}
- name: PLUGIN_NAME
  value: {{ include "sdp.fullname" . | quote }}
{{- end }}
{{- end }}
