"""A table of parameters declared on a node."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException, ParameterException
from rclpy.node import Node

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.settings.parameters import PARAMETERS, Parameter, check_names, check_together, unknown_names


def declare(node: Node, parameters: Sequence[Parameter] = PARAMETERS,
            names_for_any: Collection[str] = ()) -> dict[str, Any]:
    """Declare a table on an rclpy node and return the values in force.

    names_for_any: given to every node, so that those which the table lacks may be meant for another one.
    Raises ConfigError for a value from the command line or a parameter file that the table does not allow, and for a
    name that it lacks.
    """
    overrides = node._parameter_overrides
    if parameters is PARAMETERS:
        check_names(overrides)
    known = {parameter.name: parameter for parameter in parameters}
    if strange := unknown_names([name for name in overrides if name not in names_for_any], known):
        raise ConfigError('; '.join(strange))
    for sentence in unknown_names([name for name in overrides if name in names_for_any], known):
        node.get_logger().warning(f'{sentence} (it stands in a section for every node, and is not used here)')
    types = {'bool': ParameterType.PARAMETER_BOOL, 'integer': ParameterType.PARAMETER_INTEGER,
             'double': ParameterType.PARAMETER_DOUBLE, 'string': ParameterType.PARAMETER_STRING,
             'string[]': ParameterType.PARAMETER_STRING_ARRAY}
    values = {}
    for parameter in parameters:
        descriptor = ParameterDescriptor(
            name=parameter.name, type=types[parameter.type_name], description=parameter.description,
            additional_constraints=parameter.range_text if parameter.choices else '',
            read_only=not parameter.live)
        if parameter.low is not None:
            ends = dict(from_value=parameter.low, to_value=parameter.high)
            if parameter.type_name == 'double':
                descriptor.floating_point_range = [FloatingPointRange(**ends)]
            else:
                descriptor.integer_range = [IntegerRange(**{k: int(v) for k, v in ends.items()})]
        # rclpy cannot tell the type of an empty list.
        default = list(parameter.default) or [''] if parameter.type_name == 'string[]' else parameter.default
        override = overrides.get(parameter.name)
        if override is not None:
            parameter.check(override.value)
        try:
            value = node.declare_parameter(parameter.name, default, descriptor).value
        except (InvalidParameterTypeException, InvalidParameterValueException, ParameterException) as error:
            raise ConfigError(f'parameter {parameter.name}: {error}') from error
        parameter.check(value)
        values[parameter.name] = value
    if parameters is PARAMETERS:
        check_together(values)
    return values
