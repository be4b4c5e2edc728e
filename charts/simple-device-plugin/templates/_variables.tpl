{{- /* Maps each key of a resource to its environment variable. */}}
{{- define "sdp.variableNames" -}}
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

{{- /* The variables of one resource or one override. Takes a dict with resource and suffix (<index> or <index>.<node>). */}}
{{- define "sdp.resourceVariables" -}}
{{- $variableNames := include "sdp.variableNames" . | fromYaml }}
{{- range $key, $value := .resource }}
- name: {{ printf "%s_%s" (get $variableNames $key) $.suffix | quote }}
  {{- if kindIs "slice" $value }}
  value: {{ join "+" $value | quote }}
  {{- else if kindIs "float64" $value }}
  value: {{ int64 $value | toString | quote }}
  {{- else }}
  value: {{ toString $value | replace "$" "$$" | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* All variables that the chart's values set, except extraEnv. */}}
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
{{- fail (printf "resources: %s is listed twice" $resource.name) }}
{{- end }}
{{- $_ := set $indexes $resource.name (toString $index) }}
{{- include "sdp.resourceVariables" (dict "resource" $resource "suffix" (toString $index)) }}
{{- end }}
{{- range $node, $overrides := .Values.nodeOverrides }}
{{- range $name, $override := $overrides }}
{{- if not (hasKey $indexes $name) }}
{{- fail (printf "nodeOverrides.%s: %s is not in resources; expected one of %s" $node $name (keys $indexes | sortAlpha | join ", ")) }}
{{- end }}
{{- $suffix := printf "%s.%s" (get $indexes $name) $node }}
{{- include "sdp.resourceVariables" (dict "resource" $override "suffix" $suffix) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Rejects extraEnv entries that conflict with config or resources: variable precedence would silently select one of the
values. With resources, PLUGIN_NAME is allowed: it applies to every resource without a pluginName. */}}
{{- define "sdp.checkExtraEnv" -}}
{{- if and .Values.config .Values.nodeOverrides }}
{{- fail "nodeOverrides cannot be used with config; use nodes in the config file" }}
{{- end }}
{{- $resourceVariables := include "sdp.variableNames" . | fromYaml | values | join "|" }}
{{- $reserved := "NAMESPACE NODE_NAME DEVICE_PLUGIN_PATH CONFIG_FILE ALLOWED_HOST_PATHS RUST_LOG LOG_FORMAT HTTP_ADDRESS CONTROL_SOCKET POD_RESOURCES_SOCKET" }}
{{- range .Values.extraEnv }}
{{- $isResourceVariable := regexMatch (printf "^(%s)(_[0-9]+)?([.].*)?$" $resourceVariables) .name }}
{{- if and $.Values.config $isResourceVariable }}
{{- fail (printf "extraEnv: %s cannot be used with config; set it in the config file" .name) }}
{{- end }}
{{- if and $.Values.resources $isResourceVariable (ne .name "PLUGIN_NAME") }}
{{- fail (printf "extraEnv: %s cannot be used with resources; set it in resources or nodeOverrides, or clear resources (--set resources=null)" .name) }}
{{- end }}
{{- if has .name (splitList " " $reserved) }}
{{- fail (printf "extraEnv: %s is reserved for the chart" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Names the sockets after the release, so that several releases can run on one node. extraEnv can override the name. */}}
{{- define "sdp.pluginName" -}}
{{- $isInExtraEnv := false }}
{{- range .Values.extraEnv }}
{{- if eq .name "PLUGIN_NAME" }}
{{- $isInExtraEnv = true }}
{{- end }}
{{- end }}
{{- if not $isInExtraEnv }}
- name: PLUGIN_NAME
  value: {{ include "sdp.fullname" . | quote }}
{{- end }}
{{- end }}
