"""`{% load money %}`: prices in templates."""

from django import template

from shop import prices

register = template.Library()
register.filter(prices.euro)
